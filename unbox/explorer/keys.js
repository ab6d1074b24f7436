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
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input, textarea, select, [contenteditable]')) return;
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
