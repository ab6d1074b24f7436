// A mask painted over the picture, on a canvas with one pixel for each cell of the mask.
let brush = 4, tool = 'brush', last = null, grabbed = null, region = false;

const canvas = () => element.querySelector('canvas[data-paint]');
const pen = () => canvas().getContext('2d');
const colour = () => region ? 'rgb(255 255 255)' : `rgb(${canvas().dataset.colour})`;

function place(event) {
  const box = canvas().getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas().width,
    ((event.clientY - box.top) / box.height) * canvas().height,
  ];
}

function stroke(from, to) {
  pen().globalCompositeOperation = tool === 'eraser' ? 'destination-out' : 'source-over';
  pen().strokeStyle = pen().fillStyle = colour();
  pen().lineWidth = 2 * brush;
  pen().lineCap = pen().lineJoin = 'round';
  pen().beginPath();
  pen().moveTo(...from);
  pen().lineTo(to[0] + 0.01, to[1]);
  pen().stroke();
}

const drawing = () => pen().getImageData(0, 0, canvas().width, canvas().height);
function levels(image) {
  let text = '';
  for (let i = 3; i < image.data.length; i += 4) text += String.fromCharCode(image.data[i]);
  return { mask: btoa(text), width: image.width, height: image.height };
}

// A stroke that comes before the server has taken the brush up waits for it.
async function tell() {
  const drawn = drawing();
  if (window.unboxBrush) {
    await Promise.race([window.unboxBrush, new Promise((done) => setTimeout(done, 5000))]);
    pen().putImageData(drawn, 0, 0);
  }
  trigger('input', levels(drawn));
}

function clear() {
  pen().globalCompositeOperation = 'source-over';
  pen().clearRect(0, 0, canvas().width, canvas().height);
}

function show() {
  const sheet = canvas();
  if (!sheet) return;
  const shown = atob(sheet.dataset.mask), rgb = sheet.dataset.colour.split(' ').map(Number);
  const picture = pen().createImageData(sheet.width, sheet.height);
  for (let i = 0; i < shown.length; i++) picture.data.set([...rgb, shown.charCodeAt(i)], 4 * i);
  pen().putImageData(picture, 0, 0);
}

function choose(name) {
  tool = name;
  for (const each of element.querySelectorAll('[data-tool]')) each.classList.toggle('ub-chosen', each.dataset.tool === name);
}

element.addEventListener('pointerdown', (event) => {
  if (!event.target.matches('canvas[data-paint]')) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  last = place(event);
  if (tool === 'move') grabbed = { from: last, by: [0, 0], drawn: drawing() };
  else stroke(last, last);
});
element.addEventListener('pointermove', (event) => {
  if (last === null) return;
  const here = place(event);
  if (grabbed) {
    grabbed.by = [Math.round(here[0] - grabbed.from[0]), Math.round(here[1] - grabbed.from[1])];
    clear();
    pen().putImageData(grabbed.drawn, ...grabbed.by);
  } else stroke(last, here);
  last = here;
});
element.addEventListener('pointerup', () => {
  if (last === null) return;
  last = null;
  if (!grabbed) { if (!region) tell(); return; }
  const { by, drawn } = grabbed;
  grabbed = null;
  if (!by[0] && !by[1]) return;
  if (region) trigger('input', { ...levels(drawn), dx: by[0] / drawn.width, dy: by[1] / drawn.height });
  else tell();
});
// The brush by keys: arrows move it by two cells, Space dabs.
let held = null;
element.addEventListener('keydown', (event) => {
  if (!event.target.matches('canvas[data-paint]')) return;
  const sheet = canvas(), by = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] }[event.key];
  if (!by && event.key !== ' ') return;
  event.preventDefault();
  event.stopPropagation();
  held ??= [sheet.width / 2, sheet.height / 2];
  if (by) held = [Math.min(Math.max(held[0] + by[0], 0), sheet.width), Math.min(Math.max(held[1] + by[1], 0), sheet.height)];
  const mark = element.querySelector('[data-cross]');
  mark.hidden = false;
  mark.style.left = `${100 * held[0] / sheet.width}%`;
  mark.style.top = `${100 * held[1] / sheet.height}%`;
  if (by) return;
  stroke(held, held);
  if (!region) tell();
});
element.addEventListener('input', (event) => {
  if (event.target.matches('[data-brush]')) brush = Number(event.target.value);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-tool]');
  if (!button) return;
  const name = button.dataset.tool;
  if (name === 'clear' || name === 'all') {
    clear();
    pen().fillStyle = colour();
    if (name === 'all') pen().fillRect(0, 0, canvas().width, canvas().height);
    if (!region) tell();
    return;
  }
  // A region is painted on its own; another tool than move and eraser brings the layer's mask back.
  if (name === 'region' && !region) clear();
  if (name === 'brush' && region) show();
  region = name === 'region' || (region && name !== 'brush');
  choose(name);
});
watch('value', () => { region = false; choose('brush'); show(); });
show();
