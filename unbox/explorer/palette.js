// The palette's field and lists: what is asked for goes to the server 200 ms after the last key.
let list = element.querySelector('[data-list]').dataset.list, timer = null;
const words = () => element.querySelector('[data-words]').value;
const ask = () => trigger('input', { list, words: words(), liked: JSON.stringify(window.unboxLiked.all()) });
element.addEventListener('input', (event) => {
  if (!event.target.matches('[data-words]')) return;
  clearTimeout(timer);
  timer = setTimeout(ask, 200);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-list]');
  if (!button) return;
  list = button.dataset.list;
  for (const each of element.querySelectorAll('[data-list]')) each.setAttribute('aria-pressed', each === button);
  ask();
});
window.unboxPalette = ask;
