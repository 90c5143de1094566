// Live figures without a kernel. A place `.play` holds what qlesson/authoring/book/plays.py says of
// the figure: its controls, its first sentences, and whether a script computes the others or each
// setting has a frame, drawn by the package. Until somebody touches it, the stored picture stands.
(() => {
const qlesson = globalThis.qlesson ??= {};
const here = new URL('.', document.currentScript.src);
const waiting = {}, loaded = {};

// A script by its path beside this one; file:// allows no other way to fetch.
const load = path => loaded[path] ??= new Promise((resolve, reject) => {
  const script = document.createElement('script');
  const failed = e => { delete loaded[path]; reject(e); };  // who tries again loads it again
  Object.assign(script, {src: new URL(path, here), onload: resolve, onerror: failed});
  document.head.append(script);
});
qlesson.play = (number, look) => { waiting[number] = look; };
qlesson.frames = (number, frames) => { waiting[number] = frames; };

// From the settings, as indices of the values that the controls offer, to sentences and a picture.
const computed = async (play, number) => {
  await load('formula.js');
  await load(`play/${number}/play.js`);
  const look = waiting[number];
  return {
    look: async at => {
      const settings = play.controls.map((c, i) => [c.name, c.values[at[i]]]);
      const {sentences, draw} = look(Object.fromEntries(settings));
      return {sentences, svg: draw(play.picture)};
    },
    ahead: () => {},
  };
};

const stored = async (play, number) => {
  await load(`play/${number}/frames.js`);
  const {lines, said, frames} = waiting[number], images = new Map();
  const index = at => at.reduce((sum, i, k) => sum * play.controls[k].values.length + i, 0);
  const fetched = at => {
    const frame = frames[index(at)];
    if (!images.has(frame)) {
      const image = new Image();
      image.src = new URL(`play/${number}/${frame}.webp`, here);
      const failed = e => { images.delete(frame); throw e; };  // who tries again fetches it again
      images.set(frame, image.decode().then(() => image.src, failed));
    }
    return images.get(frame);
  };
  return {
    look: async at => ({sentences: said[index(at)].map(n => lines[n]), src: await fetched(at)}),
    ahead: at => play.controls.forEach((c, k) => [-1, 1].forEach(by => {
      const near = [...at];
      near[k] += by;
      if (near[k] in c.values) fetched(near).catch(() => {});
    })),
  };
};

const element = (name, properties = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    key in node ? node[key] = value : node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};
const minus = text => text.replace('-', '−');

// A control: its node, and `place`, which of the offered values it stands at.
const control = (c, id, changed) => {
  const label = element('label', {htmlFor: id, textContent: c.words});
  if (c.kind === 'switch') {
    const box = element('input', {id, type: 'checkbox', checked: c.values[c.start]});
    box.oninput = () => changed(c.values.indexOf(box.checked));
    return element('div', {className: 'control'}, box, label);
  }
  if (c.kind === 'choice') {
    const list = element('select', {id}, ...c.values.map(v => element('option', {textContent: v})));
    list.selectedIndex = c.start;
    list.oninput = () => changed(list.selectedIndex);
    return element('div', {className: 'control'}, label, list);
  }
  const slider = element('input', {id, type: 'range', min: 0, max: c.values.length - 1, step: 1});
  const beside = element('output', {htmlFor: id});
  const say = () => {
    const value = c.values[slider.value];
    beside.textContent = minus(c.digits === null ? `${value}` : value.toFixed(c.digits));
    slider.setAttribute('aria-valuetext', `${value}`);
  };
  slider.value = c.start;
  slider.oninput = () => { say(); changed(+slider.value); };
  say();
  return element('div', {className: 'control'}, label, slider, beside);
};

const mount = place => {
  const number = place.dataset.play, play = JSON.parse(place.querySelector('script').textContent);
  const output = place.previousElementSibling.querySelector('.cell_output');
  const image = output?.querySelector('img') ?? Object.assign(new Image(), {alt: play.picture}), picture = element('div', {className: 'picture'}, image);
  const said = element('div', {className: 'said', 'aria-live': 'polite'});
  const at = play.controls.map(c => c.start);
  let source = null, asked = 0, shown = 0;
  const tell = sentences => said.replaceChildren(...sentences.map(s => element('div', {textContent: s})));
  const ready = () => source ??= (play.frames ? stored : computed)(play, number);
  const show = async () => {
    const turn = ++asked, now = [...at];
    try {
      const from = await ready(), {sentences, src, svg} = await from.look(now);
      if (turn < shown) return;  // a later setting was faster
      shown = turn;
      if (svg) picture.innerHTML = svg;
      else {
        image.src = src;
        image.alt = play.picture;
      }
      tell(sentences);
      place.dataset.at = now.join(' ');
      from.ahead(now);
    } catch {
      if (turn < shown) return;
      shown = turn;
      source = null;
      tell(['This setting could not be loaded. Look whether you are connected, and try again.']);
    }
  };
  const controls = play.controls.map((c, k) =>
    control(c, `play-${number}-${c.name}`, i => { at[k] = i; show(); }));
  place.append(element('form', {'aria-label': 'Settings of the figure', onsubmit: () => false}, ...controls), picture, said);
  output?.remove();
  tell(play.said);
  const approach = () => ready().then(from => from.ahead(at)).catch(() => { source = null; });
  place.addEventListener('pointerenter', approach, {once: true});
  place.addEventListener('focusin', approach, {once: true});
  place.classList.add('live');
};

document.querySelectorAll('.play').forEach(mount);
})();
