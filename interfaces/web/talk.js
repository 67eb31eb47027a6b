// What was asked and answered; a mask's number stands where the model pointed. An answer is a button: it shows its masks.
const told = { turns: [], shown: -1, words: {} };
const talk = element.querySelector('.gl-talk');

function make(kind, name, text) {
  const made = document.createElement(kind);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  talk.replaceChildren();
  told.turns.forEach((turn, at) => {
    talk.append(make('div', 'gl-said gl-asked', turn.question));
    const answer = make(turn.whole ? 'button' : 'div', 'gl-said gl-answered' + (at === told.shown ? ' gl-shown' : ''));
    if (turn.whole) {
      answer.type = 'button';
      answer.title = told.words.show_answer;
      answer.addEventListener('click', () => trigger('show', { turn: at }));
    }
    if (turn.words.length < 2 && !turn.words[0]) answer.append(make('small', '', told.words.waiting));
    turn.words.forEach((words, index) => {
      answer.append(words);
      if (index === turn.words.length - 1) return;
      const chip = make('span', 'gl-chip', String(index + 1));
      chip.style.setProperty('--gl-colour', turn.colours[index].colour);
      chip.style.setProperty('--gl-ink', turn.colours[index].ink);
      const light = mask => document.dispatchEvent(new CustomEvent('gemma-lisa-light', { detail: { turn: at, mask } }));
      chip.addEventListener('mouseenter', () => light(index));
      chip.addEventListener('mouseleave', () => light(-1));
      answer.append(chip);
    });
    if (turn.whole && turn.words.length === 1) answer.append(' ', make('small', '', `(${told.words.no_mask})`));
    if (turn.cut_off) answer.append(' ', make('small', '', told.words.cut_off));
    talk.append(answer);
  });
  talk.scrollTop = talk.scrollHeight;
}

function read() {
  Object.assign(told, props.value || {});
  draw();
}
watch('value', read);
read();
