// A swatch becomes the brush; its star is kept in this browser.
const chosen = () => document.querySelector('#paint-feature textarea, #paint-feature input')?.value;
function draw() {
  const liked = window.unboxLiked.all(), name = chosen();
  for (const each of element.querySelectorAll('[data-like]')) {
    const on = liked.includes(each.dataset.like);
    each.setAttribute('aria-pressed', on);
    each.textContent = on ? '★' : '☆';
  }
  for (const each of element.querySelectorAll('[data-swatch]')) each.classList.toggle('ub-chosen', each.dataset.swatch === name);
}
element.addEventListener('click', (event) => {
  const star = event.target.closest('[data-like]'), swatch = event.target.closest('[data-go]');
  if (star) { window.unboxLiked.toggle(star.dataset.like); draw(); return; }
  if (!swatch) return;
  let taken;
  window.unboxBrush = new Promise((done) => { taken = done; });
  window.unboxBrushTaken = () => { taken(); window.unboxBrush = null; };
  trigger('click', JSON.parse(swatch.dataset.go));
  // until the server's answer is drawn, what is painted is not yet cleared
  const canvas = document.querySelector('#paint-canvas canvas');
  canvas?.getContext('2d').clearRect(0, 0, canvas.width, canvas.height);
  document.querySelector('#paint-canvas [data-tool=brush]')?.click();
  for (const each of element.querySelectorAll('[data-swatch]')) each.classList.toggle('ub-chosen', each === swatch);
});
watch('value', draw);
draw();
