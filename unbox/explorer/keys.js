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
// Features that are liked are kept in this browser.
window.unboxLiked = {
  all() { try { return JSON.parse(localStorage.getItem('unbox-liked')) || []; } catch { return []; } },
  toggle(name) {
    const all = this.all(), kept = all.includes(name) ? all.filter((each) => each !== name) : [name, ...all].slice(0, 200);
    try { localStorage.setItem('unbox-liked', JSON.stringify(kept)); } catch { /* private */ }
  },
};
// While Paint is open: Ctrl+Z and Ctrl+Shift+Z undo and redo, "b", "x", "r", "v" take brush, eraser, region, move, "[" and "]" its size.
function painting(event) {
  if (document.getElementById('paint-canvas')?.offsetParent == null) return false;
  const press = (selector) => { document.querySelector(selector)?.click(); return true; };
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== 'z' || event.altKey) return false;
    return press(event.shiftKey ? '#paint-redo' : '#paint-undo');
  }
  if (event.key === 'b') return press('#paint-canvas [data-tool=brush]');
  if (event.key === 'x') return press('#paint-canvas [data-tool=eraser]');
  if (event.key === 'r') return press('#paint-canvas [data-tool=region]');
  if (event.key === 'v') return press('#paint-canvas [data-tool=move]');
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
