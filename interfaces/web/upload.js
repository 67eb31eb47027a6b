// Where a picture is put in: a chosen, dropped or pasted file, or a photo. Its bytes go to the server, which answers with
// a number; the number is all that the page tells of it then. `element`, `props`, `trigger`, `upload` and `watch` are Gradio's.
const told = { words: {}, limit: 0 };
const zone = element.querySelector('.gl-upload'), input = element.querySelector('input');
const video = element.querySelector('video'), buttons = element.querySelector('.gl-buttons');
const note = element.querySelector('.gl-note');
let camera = null, sending = false;

function button(text, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = 'gl-button';
  made.textContent = text;
  made.setAttribute('aria-label', text);
  made.addEventListener('click', act);
  return made;
}

function draw() {
  buttons.replaceChildren(
    button(told.words.choose_file, () => input.click()),
    camera ? button(told.words.capture, shoot) : button(told.words.camera, startCamera),
    button(told.words.paste, paste));
}

async function send(file) {
  if (sending || !file) return;
  if (file.size > told.limit) {
    note.textContent = told.words.file_too_large.replace('{limit}', told.limit / 2 ** 20);
    return;
  }
  sending = true;
  note.textContent = told.words.sending;
  try {
    window.gemmaLisaUpload = (await upload(file)).path;
    note.textContent = '';
    trigger('receive', {});
  } catch {
    note.textContent = told.words.not_sent;
  }
  sending = false;
  stopCamera();
}

async function startCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch {
    note.textContent = told.words.no_camera;
    return;
  }
  note.textContent = '';
  video.srcObject = camera;
  video.hidden = false;
  await video.play();
  draw();
  const watching = setInterval(() => { // a drawing may be chosen meanwhile
    if (camera && element.isConnected && element.offsetParent) return;
    clearInterval(watching);
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
  } catch { /* not allowed: the note says what to do */ }
  note.textContent = told.words.no_clipboard;
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

function read() {
  Object.assign(told, props.value || {});
  draw();
}
watch('value', read);
read();
