// Exercise 11.1 in the web book, as exercises.py has it.
{
  const errors = codes => {
    const [first, second] = [0.4 - codes[0], 0.6 - codes[1]];
    return [first * first + second * second, (first - second) ** 2];
  };
  const both = (a1, a2, b1, b2) => [...errors([a1, a2]), ...errors([b1, b2])];
  qlesson.construction('11.1', {
    facts: (a1, a2, b1, b2) => {
      const [wa, ya, wb, yb] = both(a1, a2, b1, b2).map(x => fixed(x, 2));
      return `A has weight error ${wa} and output error ${ya}, B has weight error ${wb} and output error ${yb}.`;
    },
    faults: [
      (...numbers) => numbers.some(x => x !== rint(x)),
      (...numbers) => numbers.some(x => x !== 0 && x !== 1),
      (a1, a2, b1, b2) => a1 === b1 && a2 === b2,
      (...numbers) => { const [wa, ya, wb, yb] = both(...numbers); return wb < wa - 1e-9 && ya < yb - 1e-9; },
      (...numbers) => { const [wa, , wb] = both(...numbers); return wa > wb - 1e-9; },
      (...numbers) => { const [, ya, , yb] = both(...numbers); return yb > ya - 1e-9; },
    ],
  });
}
