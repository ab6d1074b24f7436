// Reads the recipe out of a dropped PNG here, in the browser: the picture itself is never sent or decoded.
const KEYWORD = 'unbox', LARGEST = 64 << 20, LONGEST = 1 << 20;

function recipeOf(buffer) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  const signature = [137, 80, 78, 71, 13, 10, 26, 10];
  if (bytes.length < 33 || signature.some((each, i) => bytes[i] !== each)) throw 'this file is not a PNG';
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === 'iTXt') {
      const parts = [];
      let start = 0;
      const next = () => { const end = data.indexOf(0, start); const part = data.subarray(start, end); start = end + 1; return part; };
      parts.push(new TextDecoder('latin1').decode(next()));
      const compressed = data[start];
      start += 2;
      next(); next();
      if (parts[0] === KEYWORD && compressed === 0) {
        if (data.length > LONGEST) throw 'the recipe in this PNG is too long';
        return new TextDecoder('utf-8').decode(data.subarray(start));
      }
    }
    at += 12 + length;
  }
  throw 'this PNG holds no recipe: it was not saved here, or was saved again by another program (to start from it as a photo, choose it below)';
}

async function take(file) {
  if (!file) return;
  try {
    if (file.size > LARGEST) throw 'this file is too large';
    trigger('input', { recipe: recipeOf(await file.arrayBuffer()) });
  } catch (problem) {
    trigger('input', { problem: String(problem).slice(0, 200) });
  }
}

// A photo is cut here to the picture's size, and sent.
async function start(file) {
  if (!file) return;
  try {
    if (file.size > LARGEST) throw 'this file is too large';
    const photo = await createImageBitmap(file).catch(() => { throw 'this file is no picture that the browser reads'; });
    const { width, height } = document.querySelector('#paint-canvas canvas').dataset;
    const sheet = Object.assign(document.createElement('canvas'), { width: Number(width), height: Number(height) });
    const scale = Math.max(sheet.width / photo.width, sheet.height / photo.height), pen = sheet.getContext('2d');
    pen.fillStyle = 'white';
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(photo, (sheet.width - scale * photo.width) / 2, (sheet.height - scale * photo.height) / 2, scale * photo.width, scale * photo.height);
    const kind = sheet.width * sheet.height > 1 << 18 ? 'image/jpeg' : 'image/png';
    trigger('input', { photo: sheet.toDataURL(kind, 0.95).split(',')[1] });
  } catch (problem) {
    trigger('input', { problem: String(problem).slice(0, 200) });
  }
}

element.addEventListener('change', (event) => {
  if (!event.target.matches('input[type=file]')) return;
  (event.target.matches('[data-photo]') ? start : take)(event.target.files[0]);
  event.target.value = '';
});
// A picture may be dropped anywhere on the page while it is open.
const open = () => element.offsetParent !== null;
document.addEventListener('dragover', (event) => {
  if (!open()) return;
  event.preventDefault();
  element.classList.add('ub-over');
});
document.addEventListener('dragleave', () => element.classList.remove('ub-over'));
document.addEventListener('drop', (event) => {
  element.classList.remove('ub-over');
  if (!open() || !event.dataTransfer?.files.length) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
