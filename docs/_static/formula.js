// What the scripts of the live figures share: the package's arithmetic, Python's numbers as text,
// and axes to draw on. tests/browser/test_book.py compares what they make of it with the package.
const qlesson = globalThis.qlesson ??= {};

// Arithmetic: `f` rounds to float32, as torch does after every operation.
const f = Math.fround;
const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const rint = x => {  // half to even
  const n = Math.floor(x), d = x - n;
  return d > .5 || (d === .5 && n % 2 !== 0) ? n + 1 : n;
};
const evenly = (low, high, n) =>  // torch.linspace in float64, rounded once
  Array.from({length: n}, (_, i) => {
    const step = (high - low) / (n - 1);
    return f(i < n / 2 ? low + step * i : high - step * (n - 1 - i));
  });

// Numbers as text: Python breaks a tie by the even digit, toFixed by the larger number.
const fixed = (x, digits) => {  // f"{x:.2f}"
  const tie = Number.isInteger(x * 2 ** (digits + 1)) && Math.abs(x * 10 ** digits % 1) === .5;
  return (tie ? rint(x * 10 ** digits) / 10 ** digits : x).toFixed(digits);
};
const noMinusZero = text => /[1-9]/.test(text) ? text : text.replace('-', '');
const general = (x, digits) => {  // f"{x:.4g}"
  if (x === 0) return '0';
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(x))) - digits + 1), t = x / unit;
  const tie = Math.abs(t % 1) === .5 && t * unit === x;
  const [first, power] = (tie ? rint(t) * unit : x).toExponential(digits - 1).split('e');
  const short = text => text.includes('.') ? text.replace(/\.?0+$/, '') : text;
  if (power >= -4 && power < digits) return short(fixed(x, Math.max(0, digits - 1 - power)));
  return `${short(first)}e${power[0]}${power.slice(1).padStart(2, '0')}`;
};
const short = (x, digits = 4) => noMinusZero(general(x, digits)).replace('-', '−');

// Drawing: the colours and sizes of qlesson.teach.figures, on 700 points across.
const INK = '#000000', GRID = '#6b6b6b', REAL = '#0072b2', CODE = '#c05500', ERROR = '#007e5c';
const CLIPPED = '#995b7d', INSIDE = '#c4e5f7', BAR = '#f4d48c', SMALL = 12.5, LETTERS = 13.9;

class Canvas {
  constructor(height) { Object.assign(this, {height, parts: []}); }
  add(mark, attributes, inside = '') {
    const given = Object.entries(attributes).map(([name, x]) =>
      `${name}="${typeof x === 'number' ? +x.toFixed(2) : x}"`).join(' ');
    this.parts.push(`<${mark} ${given}>${inside}</${mark}>`);
  }
  line(x1, y1, x2, y2, stroke = INK, width = 1, dash = '') {
    this.add('line', {x1, y1, x2, y2, stroke, 'stroke-width': width, 'stroke-dasharray': dash});
  }
  rect(x, y, width, height, fill, stroke = 'none') {
    this.add('rect', {x, y, width: Math.max(0, width), height: Math.max(0, height), fill, stroke});
  }
  dot(x, y, r, fill, stroke = fill) { this.add('circle', {cx: x, cy: y, r, fill, stroke, 'stroke-width': 1.4}); }
  diamond(x, y, r, fill, stroke = fill) {
    const w = .65 * r;
    this.add('path', {d: `M${x.toFixed(2)} ${(y - r).toFixed(2)}l${w} ${r}l${-w} ${r}l${-w} ${-r}z`, fill, stroke});
  }
  cross(x, y, r, color) {
    this.line(x - r, y - r, x + r, y + r, color, 4);
    this.line(x - r, y + r, x + r, y - r, color, 4);
  }
  text(x, y, words, {anchor = 'middle', fill = INK, size = LETTERS, turn = 0} = {}) {
    const at = turn ? {transform: `translate(${x} ${y}) rotate(${turn})`} : {x, y};
    this.add('text', {...at, 'text-anchor': anchor, fill, 'font-size': size}, words);
  }
  // A straight axis with ticks [place, words] below or left of it.
  below(y, from, to, ticks) {
    this.line(from, y, to, y);
    for (const [x, words] of ticks) { this.line(x, y, x, y + 4); this.text(x, y + 18, words); }
  }
  beside(x, from, to, ticks) {
    this.line(x, from, x, to);
    for (const [y, words] of ticks) {
      this.line(x - 4, y, x, y);
      this.text(x - 8, y + 5, words, {anchor: 'end'});
    }
  }
  svg(name) {
    const label = name.replace(/&/g, '&amp;').replace(/"/g, '&quot;');
    return `<svg viewBox="0 0 700 ${this.height}" role="img" aria-label="${label}" style="white-space: pre">` +
      `<rect width="700" height="${this.height}" fill="#fff"/>${this.parts.join('')}</svg>`;
  }
}

// Round numbers between two ends, at most so many.
const ticks = (low, high, most) => {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(x => x * power).find(x => x >= rough * .999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => +((first + i) * step).toPrecision(12));
};

// Words near their places [x, words, fill], moved apart where they would touch.
const apart = (words, low, high, letter = 7.6) => {
  const sorted = words.map((w, i) => [...w, i]).sort((a, b) => a[0] - b[0] || a[3] - b[3]);
  const widths = sorted.map(w => (w[1].length + 1.2) * letter);
  let sum = 0;
  const centres = widths.map(w => (sum += w) - w / 2), blocks = [];
  sorted.forEach((w, i) => {
    blocks.push([w[0] - centres[i], 1]);
    while (blocks.length > 1 && blocks.at(-2)[0] > blocks.at(-1)[0]) {
      const [b, n] = blocks.pop(), [a, m] = blocks.pop();
      blocks.push([(a * m + b * n) / (m + n), m + n]);
    }
  });
  const shifts = blocks.flatMap(([shift, n]) => Array(n).fill(shift));
  return sorted.map((w, i) => [w[0], clip(shifts[i], low, high - sum) + centres[i], w[1], w[2]]);
};
