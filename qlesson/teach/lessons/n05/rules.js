// Exercise 5.3 in the web book, as exercises.py has it.
{
  const largest = values => Math.max(...values.map(Math.abs));
  const squaresLost = values => !(1e-12 < largest(values) && largest(values) < 1e12);
  const mse = (values, bits) => {
    const low = Math.min(0, ...values), high = Math.max(0, ...values);
    const first = -(2 ** (bits - 1)), last = 2 ** (bits - 1) - 1, scale = (high - low) / (last - first);
    const zero = clip(rint(first - low / scale), first, last);
    const off = values.map(r => r - scale * (clip(rint(r / scale + zero), first, last) - zero));
    return off.reduce((sum, d) => sum + d * d, 0) / values.length;
  };
  const both = values => [mse(values, 2), mse(values, 3)];
  qlesson.construction('5.3', {
    facts: (...values) => {
      if (squaresLost(values)) return `the largest magnitude is ${general(largest(values), 4)}.`;
      const [two, three] = both(values).map(x => general(x, 4));
      return `the MSE is ${two} with 2 bits and ${three} with 3.`;
    },
    faults: [
      (...values) => values.length < 3,
      (...values) => new Set(values).size === 1,
      (...values) => squaresLost(values),
      (...values) => Math.max(...both(values)) <= 1e-12 * largest(values) ** 2,
      (...values) => both(values)[1] <= 1e-12 * largest(values) ** 2,
      (...values) => { const [two, three] = both(values); return Math.abs(two - three) <= 1e-9 * two; },
      (...values) => {
        const [two, three] = both(values);
        return three <= two && (Math.min(...values) > 0 || Math.max(...values) < 0);
      },
      (...values) => { const [two, three] = both(values); return three <= two; },
    ],
  });
}
