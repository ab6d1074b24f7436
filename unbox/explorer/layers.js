// Layers: buttons with data-go, a slider of strength, and a grip that is dragged or moved with arrow keys.
let focused = null, drag = null, sent = 0, later = null;
const rows = () => [...element.querySelectorAll('.ub-layer')];
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-go]');
  if (button) trigger('click', JSON.parse(button.dataset.go));
});
const strength = (slider, held) => trigger('input', { act: 'strength', place: Number(slider.dataset.strength), value: Number((Number(slider.value) * Number(slider.dataset.unit)).toPrecision(6)), held });
element.addEventListener('input', (event) => {
  if (!event.target.matches('[data-strength]')) return;
  const value = Number(event.target.value);
  const signed = (each) => (each < 0 ? '' : '+') + Number(each.toPrecision(3));
  event.target.nextElementSibling.textContent = signed(value);
  const said = event.target.parentElement.querySelector('[data-deviations]');
  if (said) said.textContent = `of what is enough, ${signed(value * Number(event.target.dataset.unit))} deviations`;
  // Live: a frame while it is dragged, at most each 60 ms, and always of where it has come to.
  clearTimeout(later);
  if (!document.querySelector('#paint-live input')?.checked) return;
  const slider = event.target, wait = sent + 60 - Date.now();
  const send = () => { sent = Date.now(); strength(slider, 1); };
  if (wait > 0) later = setTimeout(send, wait); else send();
});
element.addEventListener('change', (event) => {
  if (!event.target.matches('[data-strength]')) return;
  clearTimeout(later);
  focused = `[data-strength="${event.target.dataset.strength}"]`;
  strength(event.target, 0);
});
const place = (from, to) => {
  to = Math.min(Math.max(to, 0), rows().length - 1);
  if (to === from) return;
  focused = `[data-grip="${to}"]`;
  trigger('input', { act: 'move', place: from, to });
};
element.addEventListener('keydown', (event) => {
  const grip = event.target.closest('[data-grip]');
  const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!grip || !by) return;
  event.preventDefault();
  place(Number(grip.dataset.grip), Number(grip.dataset.grip) + by);
});
// The row under the pointer when the grip is let go is where the layer comes.
element.addEventListener('pointerdown', (event) => {
  const grip = event.target.closest('[data-grip]');
  if (!grip) return;
  event.preventDefault();
  grip.focus();
  drag = { from: Number(grip.dataset.grip), to: Number(grip.dataset.grip) };
  grip.setPointerCapture(event.pointerId);
});
element.addEventListener('pointermove', (event) => {
  if (!drag) return;
  const all = rows();
  drag.to = all.findLastIndex((row, i) => i === 0 || event.clientY > row.getBoundingClientRect().top);
  all.forEach((row, i) => row.classList.toggle('ub-target', i === drag.to && i !== drag.from));
});
element.addEventListener('pointerup', () => {
  if (drag) place(drag.from, drag.to);
  drag = null;
});
watch('value', () => {
  if (!focused) return;
  element.querySelector(focused)?.focus();
  focused = null;
});
