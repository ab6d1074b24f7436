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
    trigger('select', {
      x: Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.9999),
      y: Math.min(Math.max((event.clientY - box.top) / box.height, 0), 0.9999),
    });
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
