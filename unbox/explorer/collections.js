// Collections are kept in this browser; the server draws their features, and checks what a file holds.
const kept = window.unboxCollection, at = (selector) => element.querySelector(selector);
const tell = () => trigger('input', { text: JSON.stringify(kept.current()) });
function draw() {
  const { names, name } = kept.list();
  at('[data-collection]').replaceChildren(...names.map((each) => Object.assign(document.createElement('option'), { value: each, textContent: each, selected: each === name })));
  at('[data-note]').value = kept.current().note;
}
kept.shown = () => { draw(); tell(); };
element.addEventListener('change', async (event) => {
  if (event.target.matches('[data-collection]')) kept.choose(event.target.value);
  if (event.target.matches('[data-note]')) kept.note(event.target.value);
  if (event.target.matches('[type=file]')) {
    const file = event.target.files[0];
    event.target.value = '';
    if (!file) return;
    trigger('input', { opened: file.size > 1 << 20 ? 'too large' : await file.text() });
  }
});
element.addEventListener('keydown', (event) => {
  if (event.target.matches('.ub-open') && (event.key === 'Enter' || event.key === ' ')) { event.preventDefault(); at('[type=file]').click(); }
});
element.addEventListener('click', (event) => {
  const act = event.target.closest('[data-act]')?.dataset.act;
  if (act === 'new') { kept.choose(at('[data-new]').value.trim() || 'features'); at('[data-new]').value = ''; }
  if (act === 'delete') kept.remove();
  if (act === 'save') {
    const blob = new Blob([JSON.stringify(kept.current(), null, 1)], { type: 'application/json' });
    const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: `${kept.current().name.replace(/[^\w-]+/g, '-')}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
});
draw();
if (!new URLSearchParams(window.location.search).get('c')) tell();  // else a link's is shown
