<script>
// "/" searches, "n" and "p" go to the next and previous feature while its page is open, "s" collects it.
// Tabs that do not fit a narrow window are in a menu, which has to be opened first.
window.unboxTab = (name) => {
  const named = (all) => [...all].find((each) => each.textContent.trim() === name && each.offsetParent !== null);
  const tab = named(document.querySelectorAll('#ub-tabs button[role=tab]'));
  if (tab) { tab.click(); return; }
  // It may take its time to open, and closes when the tabs are measured again.
  const choose = (left) => {
    const found = named(document.querySelectorAll('#ub-tabs .overflow-dropdown button'));
    if (found) { found.click(); return; }
    if (left % 5 === 0 && document.querySelector('#ub-tabs .overflow-dropdown.hide')) document.querySelector('#ub-tabs .overflow-menu button')?.click();
    if (left > 0) setTimeout(choose, 60, left - 1);
  };
  choose(50);
};
// Features that are liked are kept in this browser.
window.unboxLiked = {
  all() { try { return JSON.parse(localStorage.getItem('unbox-liked')) || []; } catch { return []; } },
  toggle(name) {
    const all = this.all(), kept = all.includes(name) ? all.filter((each) => each !== name) : [name, ...all].slice(0, 200);
    try { localStorage.setItem('unbox-liked', JSON.stringify(kept)); } catch { /* private */ }
  },
};
// Collections of features are kept in this browser: {current: name, all: {name: {name, features, note}}}.
window.unboxCollection = (() => {
  const KEPT = 'unbox-collections', MOST = 200;
  const empty = (name) => ({ name, features: [], note: '' });
  const read = () => { try { return JSON.parse(localStorage.getItem(KEPT)) || { current: 'features', all: {} }; } catch { return { current: 'features', all: {} }; } };
  function write(change) {
    const all = read();
    change(all);
    all.all[all.current] ??= empty(all.current);
    try { localStorage.setItem(KEPT, JSON.stringify(all)); } catch { /* private */ }
    window.unboxCollection.shown?.();
  }
  const one = (all) => all.all[all.current] ??= empty(all.current);
  return {
    current: () => one(read()),
    list: () => { const all = read(); one(all); return { names: Object.keys(all.all), name: all.current }; },
    choose: (name) => write((all) => { all.current = name; }),
    note: (text) => write((all) => { one(all).note = text; }),
    put: (given) => write((all) => { all.current = given.name; all.all[given.name] = given; }),
    drop: (name) => write((all) => { one(all).features = one(all).features.filter((each) => each !== name); }),
    remove: () => write((all) => { delete all.all[all.current]; all.current = Object.keys(all.all)[0] || 'features'; }),
    add(name) {
      if (!name) return;
      write((all) => { one(all).features = [...new Set([...one(all).features, name])].slice(-MOST); });
      const said = document.querySelector('[data-collected]');
      if (said) said.textContent = `${name} is in "${read().current}", of ${this.current().features.length}`;
    },
    shown: null,
  };
})();
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
  if (open && event.key === 's') document.getElementById('feature-collect')?.click();
});
</script>
