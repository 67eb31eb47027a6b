// Upload of a picture: a chosen, dropped or pasted file, or a photo. The server answers with an identifier, and all
// other requests contain only this identifier. `element`, `props`, `trigger`, `upload` and `watch` are Gradio's.
const state = { words: {}, limit: 0 };
const zone = element.querySelector('.gl-upload'), input = element.querySelector('input');
const video = element.querySelector('video'), buttons = element.querySelector('.gl-buttons');
const note = element.querySelector('.gl-note');
let camera = null, sending = false;

function button(name, text, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = 'gl-button';
  made.dataset.action = name;
  made.textContent = text;
  made.addEventListener('click', act);
  return made;
}

function draw() {
  const focused = buttons.contains(document.activeElement);
  zone.setAttribute('aria-label', state.words.picture || '');
  buttons.replaceChildren(
    button('file', state.words.choose_file, () => input.click()),
    camera ? button('capture', state.words.capture, shoot) : button('camera', state.words.camera, startCamera),
    button('paste', state.words.paste, paste));
  if (focused) buttons.children[1].focus();
}

async function send(file) {
  if (sending || !file) return;
  if (file.size > state.limit) {
    note.textContent = state.words.file_too_large.replace('{limit}', state.limit / 2 ** 20);
    return;
  }
  sending = true;
  document.dispatchEvent(new CustomEvent('gemma-lisa-sent'));
  note.textContent = state.words.sending;
  try {
    window.gemmaLisaUpload = (await upload(file)).path;
    note.textContent = state.words.opening;
    trigger('receive', {});
  } catch {
    note.textContent = state.words.not_sent;
  }
  sending = false;
  stopCamera();
}

async function startCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch {
    note.textContent = state.words.no_camera;
    return;
  }
  note.textContent = '';
  video.srcObject = camera;
  video.hidden = false;
  await video.play();
  draw();
  const timer = setInterval(() => { // the user may choose a card while the camera is on
    if (camera && element.isConnected && element.offsetParent) return;
    clearInterval(timer);
    stopCamera();
  }, 500);
}

function stopCamera() {
  if (!camera) return;
  camera.getTracks().forEach(track => track.stop());
  camera = null;
  video.srcObject = null;
  video.hidden = true;
  draw();
}

function shoot() {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob(photo => send(photo && new File([photo], 'photo.png', { type: 'image/png' })), 'image/png');
}

async function paste() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find(one => one.startsWith('image/'));
      if (!type) continue;
      await send(new File([await item.getType(type)], 'pasted.png', { type }));
      return;
    }
  } catch { /* not allowed: the note explains what to do */ }
  note.textContent = state.words.no_clipboard;
}

input.addEventListener('change', () => { send(input.files[0]); input.value = ''; });
zone.addEventListener('dragover', event => { event.preventDefault(); zone.classList.add('gl-over'); });
zone.addEventListener('dragleave', () => zone.classList.remove('gl-over'));
zone.addEventListener('drop', event => {
  event.preventDefault();
  zone.classList.remove('gl-over');
  send(event.dataTransfer.files[0]);
});
document.addEventListener('paste', function pasted(event) {
  if (!element.isConnected) { document.removeEventListener('paste', pasted); return; }
  const file = [...event.clipboardData.files].find(one => one.type.startsWith('image/'));
  if (file && element.offsetParent) send(file);
});
document.addEventListener('gemma-lisa-message', () => { note.textContent = ''; });

function read() {
  Object.assign(state, props.value || {});
  draw();
}
watch('value', read);
read();
