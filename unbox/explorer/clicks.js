// Clicks on buttons with data-go, and on pictures with data-place, become events with their data.
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-go]');
  if (button && element.contains(button)) {
    event.preventDefault();
    trigger('click', JSON.parse(button.dataset.go));
    return;
  }
  const picture = event.target.closest('[data-place]');
  if (picture) {
    const box = picture.getBoundingClientRect();
    cross = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((each) => Math.min(Math.max(each, 0), 0.9999));
    mark(picture);
    trigger('select', { x: cross[0], y: cross[1] });
  }
});
// Sliders inside the HTML change its look without asking the server.
element.addEventListener('input', (event) => {
  if (event.target.matches('[data-opacity]')) element.style.setProperty('--heat', event.target.value / 100);
  if (event.target.matches('[data-cut]')) element.style.setProperty('--cut', event.target.value + '%');
});
watch('value', () => {
  const heat = element.style.getPropertyValue('--heat');
  const slider = element.querySelector('[data-opacity]');
  if (heat && slider) slider.value = Math.round(heat * 100);
  element.style.setProperty('--cut', '50%');
});
// A place by keys: arrows move a cross by a twentieth, Enter or Space chooses it.
let cross = [0.5, 0.5];
function mark(stage) {
  const shown = stage.querySelector('[data-cross]');
  if (!shown) return;
  shown.hidden = false;
  shown.style.left = `${100 * cross[0]}%`;
  shown.style.top = `${100 * cross[1]}%`;
}
element.addEventListener('keydown', (event) => {
  const stage = event.target.closest('[data-place]');
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!stage || (!by && event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  event.stopPropagation();
  if (!by) { trigger('select', { x: cross[0], y: cross[1] }); return; }
  cross = cross.map((each, i) => Math.min(Math.max(each + by[i] / 20, 0.0001), 0.9999));
  mark(stage);
});
