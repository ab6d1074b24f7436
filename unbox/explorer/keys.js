<script>
// "/" searches, "n" and "p" go to the next and previous feature while its page is open.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input, textarea, select, [contenteditable]')) return;
  const tab = (name) => [...document.querySelectorAll('button[role=tab]')].find((each) => each.textContent.trim() === name);
  if (event.key === '/') {
    event.preventDefault();
    tab('Search')?.click();
    setTimeout(() => document.querySelector('#search-words textarea, #search-words input')?.focus(), 80);
  }
  const open = tab('Feature')?.getAttribute('aria-selected') === 'true';
  const ids = { n: 'feature-after', ArrowRight: 'feature-after', p: 'feature-before', ArrowLeft: 'feature-before' };
  if (open && ids[event.key]) document.getElementById(ids[event.key])?.click();
});
</script>
