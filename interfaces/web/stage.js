// The picture with its masks: a layer and a row of the legend for each; hover names one, a box hides one, clicks correct one.
// A value is a change: what it does not hold stays as it was. `element`, `props`, `trigger` and `watch` are Gradio's.
const shown = { picture: null, masks: [], turn: -1, whole: false, words: {} };
const hidden = new Set();
let chosen = -1, label = 1, layers = [];
const frame = element.querySelector('.gl-frame'), legend = element.querySelector('.gl-legend');
const tools = element.querySelector('.gl-tools');
const tip = make('div', 'gl-tip');

function make(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, pressed, act) {
  const made = make('button', 'gl-button', text);
  made.type = 'button';
  if (pressed !== null) made.setAttribute('aria-pressed', String(pressed));
  made.addEventListener('click', act);
  return made;
}

function chip(kind, index) {
  const made = make(kind, 'gl-chip', String(index + 1));
  made.style.setProperty('--gl-colour', shown.masks[index].colour);
  made.style.setProperty('--gl-ink', shown.masks[index].ink);
  return made;
}

function draw(known) {
  frame.replaceChildren();
  layers = [];
  if (!shown.picture) { frame.style.height = '0'; drawLegend(); return; }
  const { url, width, height, is_small } = shown.picture;
  frame.style.height = '';
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, calc(62vh * ${width / height}))`;
  frame.classList.toggle('gl-small', is_small);
  const picture = make('img', 'gl-picture');
  picture.alt = shown.words.picture_alt || '';
  picture.src = url;
  frame.append(picture);
  shown.masks.forEach((mask, index) => {
    const layer = make('img', 'gl-layer' + (index >= known ? ' gl-new' : ''));
    layer.alt = mask.name;
    layer.dataset.mask = index;
    layer.src = mask.layer;
    frame.append(layer);
    const canvas = document.createElement('canvas');
    layer.decode().then(() => {
      [canvas.width, canvas.height] = [layer.naturalWidth, layer.naturalHeight];
      canvas.getContext('2d', { willReadFrequently: true }).drawImage(layer, 0, 0);
    }).catch(() => {}); // replaced before it was decoded: nobody points at it any more
    layers.push({ layer, canvas });
  });
  shown.masks.forEach((mask, index) => {
    if (!mask.place) return;
    const number = chip('span', index);
    number.classList.add('gl-number');
    number.dataset.mask = index;
    [number.style.left, number.style.top] = mask.place.map(share => `${100 * share}%`);
    frame.append(number);
  });
  tip.hidden = true;
  frame.append(tip);
  drawLegend();
}

function drawLegend() {
  legend.replaceChildren();
  if (shown.masks.length) legend.append(make('h3', '', shown.words.masks));
  shown.masks.forEach((mask, index) => {
    const row = make('div', 'gl-row' + (index === chosen ? ' gl-chosen' : ''));
    row.dataset.mask = index;
    row.style.setProperty('--gl-colour', mask.colour);
    const named = make('label'), box = make('input');
    box.type = 'checkbox';
    box.checked = !hidden.has(index);
    box.addEventListener('change', () => { box.checked ? hidden.delete(index) : hidden.add(index); update(); });
    named.append(box, chip('span', index), make('span', 'gl-name', mask.name),
      make('span', 'gl-score', `${shown.words.score} ${mask.score.toFixed(2)}`));
    row.append(named);
    if (shown.whole) row.append(button(shown.words.correct, index === chosen, () => choose(index === chosen ? -1 : index)));
    row.addEventListener('mouseenter', () => light(index));
    row.addEventListener('mouseleave', () => light(-1));
    legend.append(row);
  });
  update();
}

function choose(index) {
  chosen = index;
  label = 1;
  hidden.delete(index);
  drawLegend();
}

function update() {
  element.querySelectorAll('[data-mask]').forEach(part =>
    part.classList.toggle('gl-off', hidden.has(Number(part.dataset.mask)) && !part.classList.contains('gl-row')));
  [window.gemmaLisaShown, window.gemmaLisaHidden] = [shown.turn, [...hidden]]; // what the PNG is asked for with
  const mask = shown.masks[chosen];
  frame.classList.toggle('gl-correcting', !!mask);
  frame.querySelectorAll('.gl-dot').forEach(dot => dot.remove());
  tools.hidden = !mask;
  tools.replaceChildren();
  if (!mask) return;
  frame.style.setProperty('--gl-colour', mask.colour);
  tools.append(make('span', 'gl-hint', shown.words.correct_hint.replace('{number}', chosen + 1)),
    button('+ ' + shown.words.part, label === 1, () => { label = 1; update(); }),
    button('− ' + shown.words.not_part, label === 0, () => { label = 0; update(); }));
  if (mask.points.length) tools.append(button('↶ ' + shown.words.undo, null, () => trigger('undo', {})));
  tools.append(button('✓ ' + shown.words.done, null, () => choose(-1)));
  for (const [x, y, on] of mask.points) {
    const dot = make('span', 'gl-dot');
    dot.style.left = `${100 * x / shown.picture.width}%`;
    dot.style.top = `${100 * y / shown.picture.height}%`;
    dot.style.background = on ? '#168c4e' : '#c82c34';
    frame.append(dot);
  }
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

function maskAt(x, y) { // the uppermost that is seen there
  for (let index = layers.length - 1; index >= 0; index--) {
    const { canvas } = layers[index];
    if (hidden.has(index) || !canvas.width) continue;
    const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    if (canvas.getContext('2d').getImageData(...at, 1, 1).data[3]) return index;
  }
  return -1;
}

function point(event) {
  const [x, y] = place(event), index = maskAt(x, y);
  if (chosen < 0) light(index);
  tip.hidden = index < 0;
  if (index < 0) return;
  const mask = shown.masks[index];
  tip.textContent = `${index + 1} ${mask.name} · ${shown.words.score} ${mask.score.toFixed(2)}`;
  [tip.style.left, tip.style.top] = [`${100 * Math.min(0.8, Math.max(0.2, x))}%`, `${100 * Math.max(0.15, y)}%`];
}

frame.addEventListener('pointermove', point);
frame.addEventListener('pointerdown', point);
frame.addEventListener('pointerleave', () => { light(-1); tip.hidden = true; });
frame.addEventListener('click', event => {
  if (chosen < 0) return;
  const [x, y] = place(event), { width, height } = shown.picture;
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
  trigger('point', { turn: shown.turn, mask: chosen, x: x * width, y: y * height, label });
});
document.addEventListener('gemma-lisa-light', event => { if (event.detail.turn === shown.turn) light(event.detail.mask); });

function save({ name, type, base64 }) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const link = make('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function read() {
  const change = props.value || {};
  if (change.file) { save(change.file); return; }
  const another = change.turn !== undefined && change.turn !== shown.turn;
  const known = another ? 0 : shown.masks.length;
  if (another) { hidden.clear(); chosen = -1; }
  Object.assign(shown, change);
  draw(known);
}
watch('value', read);
read();
