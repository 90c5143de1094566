// Exercises that ask for numbers, letters or a construction, checked in the page by the rules of
// qlesson/teach/verdict.py; qlesson/authoring/book/answers.py writes what they need. What was
// passed is noted in this browser and goes nowhere else.
(() => {
const qlesson = globalThis.qlesson ??= {};
const here = new URL('.', document.currentScript.src);
const NOTED = 'qlesson.passed';
const verdict = (state, said, hint = null) => ({state, said, hint});

// Letters
const lettersOf = text => [...new Set(text.replace(/\band\b/gi, '').toUpperCase().match(/\p{L}/gu) ?? [])].sort().join('');
const oneTooMany = (ex, letters) => {
  const right = [...ex.right], most = {n: 0};
  for (const w of ex.wrong) {
    const beside = [...w.answer].filter(c => !right.includes(c));
    const more = beside.length && right.every(c => w.answer.includes(c)) && beside.every(c => letters.includes(c));
    if (more && beside.length > most.n) Object.assign(most, {n: beside.length, w});
  }
  return most.w;
};
const judgeLetters = (ex, text) => {
  const letters = lettersOf(text);
  if ([...letters].some(c => !ex.offered.includes(c))) {
    return verdict('wrong', `it asks for letters from ${ex.offered[0]} to ${ex.offered.at(-1)}, and got ${text}.`);
  }
  if (letters === lettersOf(ex.right)) return verdict('passed', ex.why);
  const known = ex.wrong.find(w => lettersOf(w.answer) === letters) ?? oneTooMany(ex, letters);
  return verdict('wrong', `${letters || 'an empty answer'} is not right.`, known?.hint);
};

// Numbers; null in a wrong answer is any number
const read = text => {
  const words = text.replace(/−/g, '-').replace(/(\d)_(?=\d)/g, '$1').replace(/\s*\/\s*/g, '/').replace(/[[\]()]/g, ' ').trim().split(/\s*[,;]\s*|\s+/).filter(w => w);
  const numbers = words.map(w => w.split('/')).map(([a, b, ...more]) =>
    more.length || !/\d/.test(a) ? NaN : b === undefined ? Number(a) : Number(a) / Number(b || NaN));
  return numbers.length && numbers.every(Number.isFinite) ? numbers : null;
};
// As the course writes them: 524,288; where so many are asked for, a comma parts numbers.
const inThousands = text => text.replace(/(?<![\d.])[1-9]\d{0,2}(,\d{3})+\b/g, n => n.replaceAll(',', ''));
const readAs = (count, text) => {
  const all = [text, inThousands(text)].map(read);
  return all.find(numbers => numbers?.length === count) ?? all[0];
};
const match = (numbers, pattern, within) => numbers.length === pattern.length && numbers.every((a, i) => {
  const b = pattern[i], [below, above] = within[i];
  return b === null ||
    b - Math.max(below, 1e-7 * Math.abs(b)) <= a && a <= b + Math.max(above, 1e-7 * Math.abs(b));
});
const none = pattern => pattern.map(() => [0, 0]);
const inProportion = (ex, pattern) => pattern.map((b, i) => {
  const size = b === null ? 0 : Math.min(1, Math.abs(b / ex.right[i])) * Math.max(...ex.within[i]);
  return [size, size];
});
const recognise = (ex, numbers) => {
  for (const close of [false, true]) {
    for (const w of ex.wrong) {
      if (match(numbers, w.answer, close ? inProportion(ex, w.answer) : none(w.answer))) return w;
    }
  }
};
const decimals = (x, d) => +x.toFixed(d);
const rounded = (a, b) => a !== 0 && [0, 1, 2, 3, 4, 5].some(d =>
  a === decimals(a, d) && a !== b && Math.abs(a - b) <= .501 / 10 ** d);
const soMany = (n, numbers) => `it asks for ${n} ${n === 1 ? 'number' : 'numbers'}, and got ${numbers.length}.`;
const judgeNumbers = (ex, text) => {
  const wanted = ex.right, numbers = ex.rules ? read(text) : readAs(wanted.length, text);
  if (!numbers) return verdict('wrong', `it asks for finite numbers in one row, and got ${text}.`);
  if (ex.rules) return judgeConstruction(ex, numbers);
  if (numbers.length !== wanted.length) {
    return verdict('wrong', soMany(wanted.length, numbers));
  }
  if (match(numbers, wanted, ex.within)) return verdict('passed', ex.why);
  if (wanted.length > 1 && match([...numbers].reverse(), wanted, ex.within)) {
    return verdict('wrong', 'these are the right numbers in the other order.');
  }
  const known = recognise(ex, numbers);
  let said = `${text.trim()} is not right.`;
  const off = [...wanted.keys()].filter(i => !match([numbers[i]], [wanted[i]], [ex.within[i]]));
  if (wanted.length > 1 && !known) {
    const names = off.map(i => ex.names[i]).join(' and ');
    said = `${wanted.length - off.length} of ${wanted.length} numbers right. Look again at ${names}.`;
  }
  if (!known && off.some(i => rounded(numbers[i], wanted[i]))) said += ' What is rounded needs more digits.';
  return verdict('wrong', said, known?.hint);
};
const judgeConstruction = (ex, numbers) => {
  const {facts, faults} = ex.rules, takes = facts.length || Infinity;
  if (numbers.length !== takes && takes !== Infinity) {
    return verdict('wrong', soMany(ex.right.length, numbers));
  }
  const known = faults.findIndex(fault => fault(...numbers)), said = facts(...numbers);
  if (known >= 0) return verdict('wrong', said, ex.wrong[known].hint);
  return verdict('passed', said[0].toUpperCase() + said.slice(1));
};

qlesson.judge = (ex, text) => {
  if (!text.trim()) return verdict('untouched', 'not attempted yet');
  return typeof ex.right === 'string' ? judgeLetters(ex, text) : judgeNumbers(ex, text);
};

// The rules of constructions, by exercise; rules.js of a lesson calls this.
const rules = {};
qlesson.construction = (id, given) => { rules[id] = given; };
const load = path => new Promise((resolve, reject) => {
  const script = document.createElement('script');
  Object.assign(script, {src: new URL(path, here), onload: resolve, onerror: reject});
  document.head.append(script);
});
qlesson.rulesOf = async ex => {
  if (ex.script && !rules[ex.id]) {
    await load('formula.js');
    await load(ex.script);
  }
  return {...ex, rules: rules[ex.id]};
};

// What was passed
const passed = () => {
  try { return JSON.parse(localStorage.getItem(NOTED)) ?? []; } catch { return []; }
};
const note = ids => { try { localStorage.setItem(NOTED, JSON.stringify(ids)); } catch {} };

const mount = place => {
  const ex = JSON.parse(place.querySelector('script').textContent);
  const stub = place.previousElementSibling, form = document.createElement('form');
  const name = `answer-${ex.id}`;
  form.className = 'answer';
  form.innerHTML = '<label></label> <input autocomplete="off" spellcheck="false"> ' +
    '<button>Check</button><div class="verdict" role="status"></div>';
  const [label, input, , box] = form.children;
  Object.assign(label, {htmlFor: name, textContent: ex.asks});
  Object.assign(input, {id: name, inputMode: typeof ex.right === 'string' ? 'text' : 'text'});
  const tell = (state, ...lines) => {
    box.dataset.state = state;
    box.replaceChildren(...lines.filter(Boolean).map(line => {
      const p = document.createElement('p');
      p.textContent = line;
      return p;
    }));
  };
  form.onsubmit = event => {
    event.preventDefault();
    qlesson.rulesOf(ex).then(ex => {
      const {state, said, hint} = qlesson.judge(ex, input.value);
      if (state === 'passed') {
        note([...new Set([...passed(), ex.id])]);
        tell(state, `Passed: ${ex.id}. ${said}`);
      } else if (state === 'untouched') tell(state, `${ex.id} ${said}`);
      else tell(state, `${ex.id} not yet: ${said}`, hint ?? 'The hints below may help.');
    }).catch(() => tell('wrong', 'The rules could not be loaded. Look whether you are connected, and try again.'));
  };
  if (passed().includes(ex.id)) tell('passed', `Passed before: ${ex.id}.`);
  place.append(form);
  stub.hidden = true;
};
document.querySelectorAll('.exercise').forEach(mount);

// On the first page: what was passed, and how to forget it
const summary = document.querySelector('.progress-here');
if (summary) {
  const ids = passed().sort((a, b) => parseFloat(a) - parseFloat(b));
  const forget = document.createElement('button');
  forget.textContent = 'Forget';
  forget.onclick = () => { note([]); summary.textContent = 'Forgotten.'; };
  summary.textContent = ids.length ? `Passed in this browser: ${ids.join(', ')}. ` : '';
  if (ids.length) summary.append(forget);
}
})();
