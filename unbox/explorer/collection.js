// The features of a collection: a click opens one, or takes it out of what is kept in this browser.
function keep() {
  const link = element.querySelector('[data-link]')?.dataset.link;
  if (link && element.offsetParent) window.unboxHistory.show(link);
  const opened = element.querySelector('[data-opened]');  // a file that the server has read
  if (opened) window.unboxCollection.put(JSON.parse(opened.dataset.opened));
}
element.addEventListener('click', (event) => {
  const go = event.target.closest('[data-go]'), drop = event.target.closest('[data-drop]'), shared = event.target.closest('[data-keep]');
  if (go) trigger('click', JSON.parse(go.dataset.go));
  if (drop) window.unboxCollection.drop(drop.dataset.drop);
  if (shared) window.unboxCollection.put(JSON.parse(shared.dataset.keep));
});
watch('value', keep);
