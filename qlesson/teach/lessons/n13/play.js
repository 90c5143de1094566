// The live figure of notebook 13 in the web book, as play.py has it.
qlesson.play('13', ({work, dtype, bandwidth, arithmetic}) => {
  // Bytes a value, which play.py counts: the operations one by one, and in one pass.
  const [apart, pass] = {
    quantize: {float32: [37, 5], float16: [43, 3]}, dequantize: {float32: [21, 5], float16: [35, 3]},
  }[work][dtype];
  const ways = [['One by one', apart], ['In one pass', pass]].map(([way, moved]) => {
    const memory = bandwidth / moved, speed = Math.min(memory, arithmetic);
    const limit = memory === arithmetic ? 'both' : memory < arithmetic ? 'memory' : 'arithmetic';
    return {way, moved, memory, speed, limit};
  });
  return {
    sentences: [
      `Roofs, in billion values a second: arithmetic ${arithmetic}.`,
      ...ways.map(w => `${w.way}, ${w.moved} bytes a value: memory ${general(+general(w.memory, 3), 6)}; the limit is ${w.limit}.`),
      `100 million values take ${ways.map(w => `${general(100 / w.speed, 4)} ms ${w.way.toLowerCase()}`).join(' and ')}.`,
    ],
    draw: name => {
      const c = new Canvas(330), left = 95, right = 455, top = 10, bottom = 278;
      const X = b => left + Math.log(b / 2) / Math.log(40) * (right - left);
      const Y = v => bottom - Math.log(v / .05) / Math.log(40000) * (bottom - top);
      const roof = b => clip(bandwidth / b, .05, 2000), at = v => clip(bandwidth / v, 2, 80);
      c.line(X(at(2000)), Y(roof(at(2000))), X(at(.05)), Y(roof(at(.05))), GRID, 2.2, '8 3.5');
      c.line(left, Y(arithmetic), right, Y(arithmetic), INK, 1.7, '1.7 2.8');
      c.dot(X(ways[0].moved), Y(ways[0].speed), 5.5, REAL);
      c.rect(X(ways[1].moved) - 5.5, Y(ways[1].speed) - 5.5, 11, 11, CODE);
      c.below(bottom, left, right, [2, 5, 10, 20, 40, 80].map(b => [X(b), `${b}`]));
      c.beside(left, top, bottom, [.1, 1, 10, 100, 1000].map(v => [Y(v), `${v}`]));
      c.text((left + right) / 2, 318, 'bytes moved for each value (log)');
      c.text(38, (top + bottom) / 2, 'billion values per second (log)', {turn: -90});
      c.line(485, 19, 513, 19, GRID, 2.2, '8 3.5'); c.text(524, 24, 'roof: bandwidth / bytes', {anchor: 'start'});
      c.line(485, 40, 513, 40, INK, 1.7, '1.7 2.8'); c.text(524, 45, 'roof: arithmetic', {anchor: 'start'});
      c.dot(499, 61, 5.5, REAL); c.text(524, 66, 'one by one', {anchor: 'start'});
      c.rect(493.5, 77, 11, 11, CODE); c.text(524, 87, 'in one pass', {anchor: 'start'});
      return c.svg(name);
    },
  };
});
