// The message line. Gradio's own toasts are hidden; their message is shown here in the language of the page.
// `element`, `props` and `watch` are Gradio's.
const box = element.querySelector('.gl-message'), line = box.querySelector('span'), close = box.querySelector('button');

function read() {
  line.textContent = props.value || '';
  const words = window.gemmaLisaWords ?? {};
  close.setAttribute('aria-label', words.dismiss ?? 'Close');
  box.classList.toggle('gl-shown', !!props.value);
  if (props.value) document.dispatchEvent(new CustomEvent('gemma-lisa-message'));
}

function show(text) {
  props.value = text;
  read();
}

function translated(text) {
  const words = window.gemmaLisaWords ?? {};
  if (text.includes(words.unknown)) return words.unknown;
  if (/busy|queue is full|too many/i.test(text)) return words.busy;
  if (/connection|network|fetch|lost/i.test(text)) return words.no_connection;
  return words.unknown;
}

close.addEventListener('click', () => {
  show('');
  document.querySelector('#question textarea')?.focus({ preventScroll: true });
});
for (const name of ['gemma-lisa-asked', 'gemma-lisa-sent'])
  document.addEventListener(name, () => { if (props.value) show(''); });
new MutationObserver(changes => {
  for (const node of changes.flatMap(change => [...change.addedNodes])) {
    const toast = node.matches?.('[data-testid="toast-body"]') ? node : node.querySelector?.('[data-testid="toast-body"]');
    if (!toast) continue;
    show(translated(toast.textContent));
    toast.querySelector('[data-testid="toast-close"]')?.click(); // else Gradio would only count the next one
  }
}).observe(document.body, { childList: true, subtree: true });
watch('value', read);
read();
