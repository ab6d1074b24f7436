<script>
// What is shown is in the address: features, searches, pictures and tabs are steps that Back and Forward take.
window.unboxHistory = (() => {
const shown = {};  // the last link of each tab
const viewOf = (link) => new URLSearchParams(link).get('view') || 'explore';
let told = 0, touched = false, current = viewOf(window.location.search);
for (const kind of ['pointerdown', 'keydown']) document.addEventListener(kind, () => { touched = true; }, true);

function name(link) {
  const given = new URLSearchParams(link), view = viewOf(link);
  const title = document.querySelector('#feature-body .ub-title')?.innerText.trim();
  const what = view === 'feature' && given.get('f') ? title || given.get('f')
    : given.get('q') || view[0].toUpperCase() + view.slice(1);
  document.title = `${what} - unbox`;
}

// A run may end when another tab is open: its link is the address once its own tab is opened again.
function show(link) {
  if (!link) return;
  const view = viewOf(link), old = window.location.search;
  shown[view] = link;
  if (view !== current) return;
  told += 1;
  if (view === 'feature' && old !== link) window.scrollTo(0, 0);
  if (old !== link) window.history[old === `?view=${view}` ? 'replaceState' : 'pushState'](null, '', link);
  setTimeout(() => name(link), 100);
}

// A tab that was opened without a link of its own, a moment later: what opened it may bring one. The tab that
// the page begins with is opened by nobody.
function opened(view) {
  current = view;
  if (!touched) return;
  const before = told;
  setTimeout(() => {
    if (told !== before || viewOf(window.location.search) === view) return;
    window.history.pushState(null, '', shown[view] || `?view=${view}`);
    name(window.location.search);
  }, 400);
}

window.addEventListener('popstate', () => {
  told += 1;
  window.unboxHistory.back?.(window.location.search);
});
// back: what opens a link, set by the page; named: once it is opened.
return { show, opened, back: null, named: () => name(window.location.search) };
})();
</script>
