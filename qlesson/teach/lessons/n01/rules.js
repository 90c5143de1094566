// Exercise 1.3 in the web book, as exercises.py has it.
{
  const codeOf = x => clip(rint(f(f(f(x) / 3.5) - 70)), -128, 127);
  const unclipped = x => rint(x / 3.5 - 70);
  const onPaper = x => clip(unclipped(x), -128, 127);
  qlesson.construction('1.3', {
    facts: (a, b) => `${general(a, 12)} gets the code ${codeOf(a)}, and ${general(b, 12)} the code ${codeOf(b)}.`,
    faults: [
      (a, b) => a === b,
      (a, b) => Math.abs(a - b) > 0.01 - 1e-9,
      (a, b) => onPaper(a) === onPaper(b) && [a, b].some(x => onPaper(x) !== unclipped(x)),
      (a, b) => codeOf(a) === codeOf(b) && onPaper(a) !== onPaper(b),
      (a, b) => codeOf(a) === codeOf(b) && Math.abs(a / 3.5 - rint(a / 3.5)) < 0.01,
      (a, b) => codeOf(a) === codeOf(b),
    ],
  });
}
