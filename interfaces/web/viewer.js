// The picture with its masks: one layer and one row of the legend per mask. Hovering over a mask shows its name, its
// checkbox hides it, and points correct it: with a click, or with the arrow keys and Enter. A value is a change: fields
// that it does not have keep their value. `element`, `props`, `trigger` and `watch` are Gradio's.
const state = { picture: null, masks: [], turn: -1, whole: false, words: {} };
const hidden = new Set();
let chosen = -1, label = 1, layers = [], cross = null; // cross: x and y in pixels, moved by the arrow keys
const frame = element.querySelector('.gl-frame'), legend = element.querySelector('.gl-legend');
const tools = element.querySelector('.gl-tools'), spoken = element.querySelector('.gl-spoken');
const tip = make('div', 'gl-tip');
const STEPS = 50; // arrow-key steps from one side of the picture to the other
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FOCUS = { question: '#question textarea', turns: '.gl-turns', upload: '#upload button' };

function make(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(key, text, pressed, act) { // the key finds the button again after a redraw
  const made = make('button', 'gl-button', text);
  made.type = 'button';
  made.dataset.key = key;
  if (pressed !== null) made.setAttribute('aria-pressed', String(pressed));
  made.addEventListener('click', act);
  return made;
}

function filled(text, values) {
  return (text || '').replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function named(text, index) {
  return filled(text, { number: index + 1, name: state.masks[index].name });
}

function chip(kind, index) {
  const made = make(kind, 'gl-chip', String(index + 1));
  made.style.setProperty('--gl-colour', state.masks[index].colour);
  made.style.setProperty('--gl-ink', state.masks[index].ink);
  return made;
}

function keepFocus(redraw) {
  const key = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  redraw();
  if (key === undefined) return;
  const found = element.querySelector(`[data-key="${key}"]`) ?? (chosen >= 0 ? frame : null);
  found?.focus({ preventScroll: true });
}

function draw(known) {
  frame.replaceChildren();
  layers = [];
  if (!state.picture) { frame.style.height = '0'; drawLegend(); return; }
  const { url, width, height, is_small } = state.picture;
  frame.style.height = '';
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, calc(62vh * ${width / height}))`;
  frame.classList.toggle('gl-small', is_small);
  const picture = make('img', 'gl-picture');
  picture.alt = state.words.picture_alt || '';
  picture.src = url;
  frame.append(picture);
  state.masks.forEach((mask, index) => {
    const layer = make('img', 'gl-layer' + (index >= known ? ' gl-new' : ''));
    layer.alt = named(state.words.mask_alt, index);
    layer.dataset.mask = index;
    layer.src = mask.layer;
    frame.append(layer);
    const canvas = document.createElement('canvas');
    layer.decode().then(() => {
      [canvas.width, canvas.height] = [layer.naturalWidth, layer.naturalHeight];
      canvas.getContext('2d', { willReadFrequently: true }).drawImage(layer, 0, 0);
    }).catch(() => {}); // the layer was replaced before it was decoded
    layers.push({ layer, canvas });
  });
  state.masks.forEach((mask, index) => {
    if (!mask.place) return;
    const number = chip('span', index);
    number.classList.add('gl-number');
    number.dataset.mask = index;
    number.setAttribute('aria-hidden', 'true');
    [number.style.left, number.style.top] = mask.place.map(share => `${100 * share}%`);
    frame.append(number);
  });
  tip.hidden = true;
  frame.append(tip);
  drawLegend();
}

function drawRow(mask, index) {
  const row = make('div', 'gl-row' + (index === chosen ? ' gl-chosen' : ''));
  row.dataset.mask = index;
  row.style.setProperty('--gl-colour', mask.colour);
  const line = make('label'), box = make('input');
  box.type = 'checkbox';
  box.dataset.key = `show-${index}`;
  box.checked = !hidden.has(index);
  box.setAttribute('aria-label', named(state.words.show_mask, index));
  box.addEventListener('change', () => { box.checked ? hidden.delete(index) : hidden.add(index); update(); });
  line.append(box, chip('span', index), make('span', 'gl-name', mask.name),
    make('span', 'gl-score', `${state.words.score} ${mask.score.toFixed(2)}`));
  if (mask.note) line.append(make('span', 'gl-status', state.words[mask.note]));
  row.append(line);
  if (state.whole) {
    const act = () => choose(index === chosen ? -1 : index);
    const correct = button(`correct-${index}`, state.words.correct, index === chosen, act);
    correct.setAttribute('aria-label', named(state.words.correct_mask, index));
    row.append(correct);
  }
  row.addEventListener('mouseenter', () => light(index));
  row.addEventListener('mouseleave', () => light(-1));
  return row;
}

function drawLegend() {
  const count = state.masks.length;
  const title = count === 1 ? state.words.one_mask : filled(state.words.masks, { count });
  legend.setAttribute('aria-label', title || '');
  legend.replaceChildren();
  if (count) legend.append(make('h3', '', title));
  state.masks.forEach((mask, index) => legend.append(drawRow(mask, index)));
  update();
}

function choose(index) {
  const before = chosen;
  chosen = index;
  label = 1;
  cross = null;
  hidden.delete(index);
  drawLegend();
  if (index >= 0) frame.focus({ preventScroll: true });
  else legend.querySelector(`[data-key="correct-${before}"]`)?.focus({ preventScroll: true });
}

function drawTools(mask) {
  tools.setAttribute('aria-label', named(state.words.correct_mask, chosen));
  const hint = make('span', 'gl-hint', filled(state.words.correct_hint, { number: chosen + 1 }));
  const keys = make('span', 'gl-hint gl-keys', state.words.correct_keys);
  hint.id = 'gl-hint';
  keys.id = 'gl-keys';
  tools.append(hint,
    button('part', '+ ' + state.words.part, label === 1, () => { label = 1; update(); }),
    button('not_part', '− ' + state.words.not_part, label === 0, () => { label = 0; update(); }));
  if (mask.points.length) tools.append(button('undo', '↶ ' + state.words.undo, null, () => trigger('undo', {})));
  tools.append(button('done', '✓ ' + state.words.done, null, () => choose(-1)), keys);
}

function update() {
  element.querySelectorAll('.gl-layer, .gl-number').forEach(part =>
    part.classList.toggle('gl-off', hidden.has(Number(part.dataset.mask))));
  [window.gemmaLisaShown, window.gemmaLisaHidden] = [state.turn, [...hidden]]; // sent with the request for the PNG
  const mask = state.masks[chosen];
  frame.classList.toggle('gl-correcting', !!mask);
  for (const [name, value] of Object.entries({ tabindex: '0', role: 'application', 'aria-describedby': 'gl-hint gl-keys' }))
    mask ? frame.setAttribute(name, value) : frame.removeAttribute(name);
  mask ? frame.setAttribute('aria-label', named(state.words.correct_mask, chosen)) : frame.removeAttribute('aria-label');
  frame.querySelectorAll('.gl-dot').forEach(dot => dot.remove());
  keepFocus(() => {
    tools.hidden = !mask;
    tools.replaceChildren();
    if (mask) drawTools(mask);
  });
  drawCross();
  if (!mask) return;
  frame.style.setProperty('--gl-colour', mask.colour);
  for (const [x, y, on] of mask.points) frame.append(at(make('span', 'gl-dot ' + (on ? 'gl-on' : 'gl-out')), x, y));
}

function at(part, x, y) {
  part.style.left = `${100 * x / state.picture.width}%`;
  part.style.top = `${100 * y / state.picture.height}%`;
  return part;
}

function drawCross() {
  frame.querySelector('.gl-cross')?.remove();
  if (cross && chosen >= 0) frame.append(at(make('span', 'gl-cross'), ...cross));
}

function moveCross(dx, dy, isFine) {
  const { width, height } = state.picture, step = isFine ? 1 : Math.max(1, Math.max(width, height) / STEPS);
  const start = state.masks[chosen].place ?? [0.5, 0.5];
  const [x, y] = cross ?? [start[0] * width, start[1] * height];
  const within = (value, size) => Math.min(size - 0.5, Math.max(0.5, value));
  cross = [within(x + dx * step, width), within(y + dy * step, height)];
  drawCross();
  const isInside = maskAt(cross[0] / width, cross[1] / height, chosen) === chosen;
  spoken.textContent = `x ${Math.floor(cross[0])}, y ${Math.floor(cross[1])}, ` +
    (isInside ? state.words.inside : state.words.outside);
}

function light(index) {
  element.querySelectorAll('.gl-layer').forEach(layer => {
    layer.classList.toggle('gl-lit', Number(layer.dataset.mask) === index);
    layer.classList.toggle('gl-dim', index >= 0 && Number(layer.dataset.mask) !== index);
  });
  element.querySelectorAll('.gl-row').forEach(row => row.classList.toggle('gl-lit', Number(row.dataset.mask) === index));
}

function place(event) { // as shares of the picture's width and height
  const box = frame.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function maskAt(x, y, only) { // the uppermost visible mask at this place, or only the given one
  for (let index = layers.length - 1; index >= 0; index--) {
    const { canvas } = layers[index];
    if (only !== undefined && only !== index || hidden.has(index) || !canvas.width) continue;
    const pixel = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    if (canvas.getContext('2d').getImageData(...pixel, 1, 1).data[3]) return index;
  }
  return -1;
}

function point(event) {
  const [x, y] = place(event), index = maskAt(x, y);
  if (chosen < 0) light(index);
  tip.hidden = index < 0;
  if (index < 0) return;
  const mask = state.masks[index];
  tip.textContent = `${index + 1} ${mask.name} · ${state.words.score} ${mask.score.toFixed(2)}`;
  [tip.style.left, tip.style.top] = [`${100 * Math.min(0.8, Math.max(0.2, x))}%`, `${100 * Math.max(0.15, y)}%`];
}

function correct(x, y, on) {
  trigger('correct', { turn: state.turn, mask: chosen, x, y, label: on });
}

frame.addEventListener('pointermove', point);
frame.addEventListener('pointerdown', point);
frame.addEventListener('pointerleave', () => { light(-1); tip.hidden = true; });
frame.addEventListener('click', event => {
  if (chosen < 0) return;
  const [x, y] = place(event), { width, height } = state.picture;
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
  correct(x * width, y * height, label);
});
frame.addEventListener('keydown', event => {
  if (chosen < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  const arrow = ARROWS[event.key];
  if (arrow) moveCross(...arrow, event.shiftKey);
  else if (event.key === 'Enter') {
    if (!cross) moveCross(0, 0);
    correct(...cross, event.shiftKey ? 0 : 1);
  } else if (event.key === 'Escape') choose(-1);
  else return;
  event.preventDefault();
});
document.addEventListener('gemma-lisa-light', event => { if (event.detail.turn === state.turn) light(event.detail.mask); });

function save({ name, type, base64 }) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function moveFocus(target, tries = 60) { // Gradio may show the element only some frames later
  const found = document.querySelector(FOCUS[target]);
  if (found?.offsetParent) found.focus({ preventScroll: true });
  else if (tries) requestAnimationFrame(() => moveFocus(target, tries - 1));
}

function read() {
  const { file, focus, ...change } = props.value || {};
  if (file) { save(file); return; }
  const isOther = change.turn !== undefined && (change.turn !== state.turn || 'picture' in change);
  const known = isOther ? 0 : state.masks.length;
  const clicks = state.masks[chosen]?.points.length;
  if (isOther) { hidden.clear(); chosen = -1; }
  Object.assign(state, change);
  keepFocus(() => draw(known));
  if (change.language) {
    document.documentElement.lang = change.language;
    document.title = state.words.title;
    document.querySelector('#language')?.setAttribute('aria-label', state.words.language);
    window.gemmaLisaWords = state.words;
  }
  const mask = state.masks[chosen];
  if (mask && change.masks && mask.points.length !== clicks)
    spoken.textContent = filled(state.words.corrected, { number: chosen + 1, score: mask.score.toFixed(2) });
  if (focus) moveFocus(focus);
}
watch('value', read);
read();
