// Questions and answers. A mask's number stands at its place in the answer. An answer is a button that shows its masks.
// A value is a change: fields that it does not have keep their value. `element`, `props`, `trigger`, `watch` are Gradio's.
const state = { turns: [], shown: -1, words: {} };
const list = element.querySelector('.gl-turns');
let pending = false; // a question was sent, and the server has not answered yet

function make(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawAnswer(turn, at) {
  const answer = make(turn.whole ? 'button' : 'div', 'gl-said gl-answered' + (at === state.shown ? ' gl-shown' : ''));
  answer.dataset.turn = at;
  if (turn.pieces.length < 2 && !turn.pieces[0]) answer.append(make('small', '', state.words.waiting));
  turn.pieces.forEach((piece, index) => {
    answer.append(piece);
    if (index === turn.pieces.length - 1) return;
    const chip = make('span', 'gl-chip', String(index + 1));
    chip.style.setProperty('--gl-colour', turn.colours[index].colour);
    chip.style.setProperty('--gl-ink', turn.colours[index].ink);
    const light = mask => document.dispatchEvent(new CustomEvent('gemma-lisa-light', { detail: { turn: at, mask } }));
    chip.addEventListener('mouseenter', () => light(index));
    chip.addEventListener('mouseleave', () => light(-1));
    answer.append(chip);
  });
  if (turn.note) answer.append(make('small', 'gl-status', state.words[turn.note]));
  if (turn.whole) {
    answer.type = 'button';
    answer.title = state.words.show_answer;
    answer.setAttribute('aria-pressed', String(at === state.shown));
    answer.addEventListener('click', () => trigger('show', { turn: at }));
  }
  return answer;
}

function draw() {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.turn : undefined;
  list.setAttribute('aria-label', state.words.conversation || '');
  list.replaceChildren();
  state.turns.forEach((turn, at) => list.append(make('div', 'gl-said gl-asked', turn.question), drawAnswer(turn, at)));
  if (pending) list.append(make('div', 'gl-said gl-answered gl-pending', state.words.waiting));
  list.scrollTop = list.scrollHeight;
  if (focused !== undefined) (list.querySelector(`[data-turn="${focused}"]`) ?? list).focus({ preventScroll: true });
}

function setPending(value) {
  pending = value;
  draw();
}

function read() {
  const change = props.value || {};
  if (change.turns) pending = false;
  Object.assign(state, change);
  draw();
}

document.addEventListener('gemma-lisa-asked', () => setPending(true));
document.addEventListener('gemma-lisa-message', () => { if (pending) setPending(false); });
window.addEventListener('beforeunload', event => { // a reload would end the conversation
  if (element.isConnected && state.turns.length) event.preventDefault();
});
watch('value', read);
read();
