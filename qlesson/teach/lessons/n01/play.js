// The live figure of notebook 01 in the web book, as play.py has it.
qlesson.play('01', ({s, z}) => {
  const T = [191.6, -13.5, 728.6, 92.14, 295.5, -184, 0, 684.6, 245.5].map(f);
  const scale = f(s), back = q => f(scale * f(q - z));
  const free = T.map(r => rint(f(f(r / scale) + z))), q = free.map(c => clip(c, -128, 127));
  const errors = T.map((r, i) => back(q[i]) - r), off = errors.map(e => Math.abs(e) > .51 * s);
  const mean = part => errors.reduce((sum, e, i) => sum + (off[i] === part ? e * e : 0), 0) / T.length;
  const rounding = mean(false), clipping = mean(true), mse = rounding + clipping;
  const [low, high] = [back(-128), back(127)];
  return {
    codes: q,
    sentences: [
      `s = ${fixed(s, 2)}, z = ${z}: the codes reach from ${fixed(low, 1)} to ${fixed(high, 1)}.`,
      `MSE ${fixed(mse, 3)}: rounding ${fixed(rounding, 3)}, clipping ${fixed(clipping, 3)}.`,
    ],
    draw: name => {
      const c = new Canvas(300), left = 88, right = 688;
      c.rect(14, 13, 26, 10, INSIDE);
      c.text(52, 24, 'the range that has codes', {anchor: 'start'});
      c.dot(268, 19, 4.5, ERROR); c.text(290, 24, 'rounded', {anchor: 'start'});
      c.cross(393, 19, 3.5, CLIPPED); c.text(416, 24, 'clipped', {anchor: 'start'});
      c.text(left, 60, `s = ${short(s)}    z = ${short(z)}    MSE = ${short(mse)}`, {anchor: 'start'});
      const all = [...T, ...T.map((_, i) => back(q[i])), low, high];
      const from = Math.min(...all), to = Math.max(...all), margin = .05 * (to - from);
      const X = r => left + (r - from + margin) / (to - from + 2 * margin) * (right - left);
      c.rect(X(low), 68, X(high) - X(low), 52, INSIDE);
      T.forEach((r, i) => c.line(X(r), 82, X(back(q[i])), 107, free[i] === q[i] ? GRID : CLIPPED));
      T.forEach((r, i) => { c.dot(X(r), 82, 4.2, REAL); c.diamond(X(back(q[i])), 107, 6, CODE); });
      c.text(left - 8, 87, 'r', {anchor: 'end'}); c.text(left - 8, 112, 'r_hat', {anchor: 'end'});
      c.below(120, left, right, ticks(from - margin, to + margin, 6).map(t => [X(t), short(t)]));
      const order = T.map((_, i) => i).sort((a, b) => T[a] - T[b]);
      const step = (right - left) / 8.8, at = i => left + .4 * step + i * step;
      const least = Math.min(0, ...errors), most = Math.max(0, ...errors), room = .6 * (most - least || 1);
      const Y = e => 248 - (e - least + room) / (most - least + 2 * room) * 88;
      c.beside(left, 160, 248, ticks(least - room, most + room, 3).map(t => [Y(t), short(t)]));
      c.line(left, Y(0), right, Y(0), GRID, .9);
      order.forEach((i, k) => {
        const y = Y(errors[i]), gone = free[i] !== q[i];
        c.line(at(k), Y(0), at(k), y, gone ? CLIPPED : ERROR, 2.6);
        gone ? c.cross(at(k), y, 3.5, CLIPPED) : c.dot(at(k), y, 4.2, ERROR);
        c.text(at(k), errors[i] >= 0 ? y - 11 : y + 18, short(errors[i], 3), {size: SMALL});
      });
      c.below(248, left, right, order.map((i, k) => [at(k), short(T[i])]));
      c.text((left + right) / 2, 287, 'r, each value');
      c.text(38, 204, 'error r_hat − r', {turn: -90});
      return c.svg(name);
    },
  };
});
