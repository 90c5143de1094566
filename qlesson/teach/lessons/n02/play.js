// The live figure of notebook 02 in the web book, as play.py has it.
qlesson.play('02', ({r_min, r_max, include_zero}) => {
  const LO = -16, HI = 15, width = HI - LO, values = evenly(2, 6, 200);
  let low = f(r_min), high = f(r_max);
  if (include_zero) { low = Math.min(low, 0); high = Math.max(high, 0); }
  const s = f(f(high - low) / width), free = rint(f(LO - f(low / s))), z = clip(free, LO, HI);
  const code = r => clip(rint(f(f(r / s) + z)), LO, HI), back = q => f(s * f(q - z));
  const codes = values.map(code), counts = Array(width + 1).fill(0);
  codes.forEach(q => counts[q - LO]++);
  const count = Math.max(...counts), most = counts.indexOf(count) + LO;
  const used = counts.filter(n => n).length, verb = used === 1 ? 'comes' : 'come';
  return {
    codes,
    sentences: [
      `Range ${noMinusZero(fixed(r_min, 1))} to ${fixed(r_max, 1)}, hold 0 ${include_zero ? 'on' : 'off'}: ` +
        `scale ${fixed(s, 4)}, zero point ${z} (codes ${LO} to ${HI}).`,
      `The codes mean ${noMinusZero(fixed(back(LO), 2))} to ${fixed(back(HI), 2)}; the values lie from 2 to 6.`,
      `200 different values go in, ${used} ${verb} back; ${count} of the 200 share code ${most}.`,
    ],
    draw: name => {
      const c = new Canvas(300), left = 85, right = 692, top = 59, bottom = 115;
      const at = r => LO + (r - low) / ((high - low) || 1) * width;
      const all = [LO, HI, free, at(0), ...values.map(at)];
      const from = Math.min(...all), to = Math.max(...all), margin = .04 * (to - from);
      const X = v => left + (v - from + margin) / (to - from + 2 * margin) * (right - left);
      c.text(left, 19, `200 distinct values go in, ${used} ${verb} back`, {anchor: 'start'});
      c.line(X(from), top, X(to), top, GRID, 1.2, '1.5 2.5');
      c.rect(X(LO), top - 4.5, X(HI) - X(LO), 9, INSIDE, REAL);
      c.rect(X(LO), bottom - 4.5, X(HI) - X(LO), 9, BAR, CODE);
      for (const r of values) c.line(X(at(r)), top - 2.3, X(at(r)), top + 2.3, REAL, .8);
      for (const r of [low, high]) c.line(X(at(r)), top + 4.5, X(code(r)), bottom - 4.5, GRID, 1.6);
      c.line(X(at(0)), top + 4.5, X(z), bottom - 4.5, CODE, 2.4);
      c.dot(X(at(0)), top, 5, low <= 0 && 0 <= high ? REAL : '#fff', REAL);
      c.diamond(X(z), bottom, 7, CODE);
      const codeWords = [[X(LO), short(LO), CODE], [X(HI), short(HI), CODE]].filter(w => w[0] !== X(z));
      codeWords.push([X(z), `z = ${short(z)}`, CODE]);
      if (free !== z) {
        const way = Math.sign(free - z), x1 = X(free) + (free < z ? 8 : -8), x2 = X(z) + 9 * way;
        c.line(x1, bottom, x2, bottom, CLIPPED, 1.6);
        c.add('path', {d: `M${x2 + 7 * way} ${bottom - 4}L${x2} ${bottom}L${x2 + 7 * way} ${bottom + 4}`, fill: 'none', stroke: CLIPPED, 'stroke-width': 1.6});
        c.diamond(X(free), bottom, 7, '#fff', CLIPPED);
        codeWords.push([X(free), short(free, 6), CLIPPED]);
      }
      const spread = (words, start, y, baseline) => {
        for (const [x, moved, text, fill] of apart(words, left, right)) {
          c.line(x, start, moved, y, fill, .8);
          c.text(moved, baseline, text, {fill, size: SMALL});
        }
      };
      const reals = new Map([low, 0, high].map(r => [r, [X(at(r)), short(r), REAL]]));
      spread([...reals.values()], top - 5, top - 16, top - 19);
      spread(codeWords, bottom + 5, bottom + 16, bottom + 28);
      c.text(left - 8, top + 5, 'r', {anchor: 'end'}); c.text(left - 8, bottom + 5, 'code q', {anchor: 'end'});
      const Y = n => 248 - n / (1.25 * count) * 84, bar = X(1) - X(0);
      counts.forEach((n, i) => c.rect(X(i + LO - .5), Y(n), n ? bar : 0, 248 - Y(n), CODE));
      c.below(248, X(LO - .5), X(HI + .5), [-15, 0, 15].map(q => [X(q), short(q)]));
      const whole = ticks(0, 1.25 * count, 4).filter(Number.isInteger);
      c.beside(left, 164, 248, whole.map(n => [Y(n), short(n)]));
      const later = 2 * (most - LO) > counts.length;
      c.text(X(most), Y(count) - 5, `${count} on code ${short(most)}`, {anchor: later ? 'end' : 'start'});
      c.text((left + right) / 2, 287, 'code q');
      c.text(36, 206, 'count', {turn: -90});
      return c.svg(name);
    },
  };
});
