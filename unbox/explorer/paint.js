// A mask painted over the picture, on a canvas with one pixel for each cell of the mask.
let brush = 4, erasing = false, last = null;

const canvas = () => element.querySelector('canvas[data-paint]');

function place(event) {
  const box = canvas().getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas().width,
    ((event.clientY - box.top) / box.height) * canvas().height,
  ];
}

function stroke(from, to) {
  const pen = canvas().getContext('2d');
  pen.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  pen.strokeStyle = pen.fillStyle = 'rgb(255, 92, 24)';
  pen.lineWidth = 2 * brush;
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(to[0] + 0.01, to[1]);
  pen.stroke();
}

function tell() {
  const sheet = canvas();
  const pixels = sheet.getContext('2d').getImageData(0, 0, sheet.width, sheet.height).data;
  let levels = '';
  for (let i = 3; i < pixels.length; i += 4) levels += String.fromCharCode(pixels[i]);
  trigger('input', { mask: btoa(levels), width: sheet.width, height: sheet.height });
}

function show() {
  const sheet = canvas();
  if (!sheet || !sheet.dataset.mask) return;
  const levels = atob(sheet.dataset.mask);
  const pen = sheet.getContext('2d');
  const picture = pen.createImageData(sheet.width, sheet.height);
  for (let i = 0; i < levels.length; i++) picture.data.set([255, 92, 24, levels.charCodeAt(i)], 4 * i);
  pen.putImageData(picture, 0, 0);
}

element.addEventListener('pointerdown', (event) => {
  if (!event.target.matches('canvas[data-paint]')) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(last, last);
});
element.addEventListener('pointermove', (event) => {
  if (last === null) return;
  const here = place(event);
  stroke(last, here);
  last = here;
});
element.addEventListener('pointerup', () => {
  if (last !== null) tell();
  last = null;
});
element.addEventListener('input', (event) => {
  if (event.target.matches('[data-brush]')) brush = Number(event.target.value);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-tool]');
  if (!button) return;
  const tool = button.dataset.tool;
  if (tool === 'clear' || tool === 'all') {
    const pen = canvas().getContext('2d');
    pen.globalCompositeOperation = 'source-over';
    pen.fillStyle = 'rgb(255, 92, 24)';
    pen.clearRect(0, 0, canvas().width, canvas().height);
    if (tool === 'all') pen.fillRect(0, 0, canvas().width, canvas().height);
    tell();
    return;
  }
  erasing = tool === 'eraser';
  for (const each of element.querySelectorAll('[data-tool]')) each.classList.toggle('ub-chosen', each === button);
});
watch('value', () => { erasing = false; show(); });
show();
