<script>
// "/" searches, "n" and "p" go to the next and previous feature while its page is open.
// Tabs that do not fit a narrow window are in a menu, which has to be opened first.
window.unboxTab = (name) => {
  const named = (all) => [...all].find((each) => each.textContent.trim() === name && each.offsetParent !== null);
  const tab = named(document.querySelectorAll('#ub-tabs button[role=tab]'));
  if (tab) { tab.click(); return; }
  document.querySelector('#ub-tabs .overflow-menu button')?.click();
  setTimeout(() => named(document.querySelectorAll('#ub-tabs .overflow-dropdown button'))?.click(), 60);
};
// While Paint is open: Ctrl+Z and Ctrl+Shift+Z undo and redo, "b" and "x" take brush and eraser, "[" and "]" its size.
function painting(event) {
  if (document.getElementById('paint-canvas')?.offsetParent == null) return false;
  const press = (selector) => { document.querySelector(selector)?.click(); return true; };
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== 'z' || event.altKey) return false;
    return press(event.shiftKey ? '#paint-redo' : '#paint-undo');
  }
  if (event.key === 'b') return press('#paint-canvas [data-tool=brush]');
  if (event.key === 'x') return press('#paint-canvas [data-tool=eraser]');
  const size = document.querySelector('#paint-canvas [data-brush]');
  if (size && '[]'.includes(event.key)) {
    size.value = Number(size.value) + (event.key === ']' ? 1 : -1);
    size.dispatchEvent(new Event('input', { bubbles: true }));
    return true;
  }
  return false;
}
document.addEventListener('keydown', (event) => {
  if (event.target.closest('input, textarea, select, [contenteditable]')) return;
  if (painting(event)) { event.preventDefault(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/') {
    event.preventDefault();
    window.unboxTab('Search');
    const focus = (left) => {
      const field = document.querySelector('#search-words textarea, #search-words input');
      if (field?.offsetParent) field.focus();
      else if (left) setTimeout(focus, 50, left - 1);
    };
    focus(40);
  }
  const open = document.getElementById('feature-body')?.offsetParent != null;
  const ids = { n: 'feature-after', ArrowRight: 'feature-after', p: 'feature-before', ArrowLeft: 'feature-before' };
  if (open && ids[event.key]) document.getElementById(ids[event.key])?.click();
});
</script>
