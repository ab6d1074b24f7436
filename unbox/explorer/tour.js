// The tour is open until it is closed once in this browser, or the window is narrow; its steps open their pages.
const SEEN = 'unbox-tour-closed', tour = element.querySelector('.ub-tour');
const seen = () => { try { return localStorage.getItem(SEEN); } catch { return null; } };
tour.hidden = Boolean(seen()) || window.innerWidth < 760;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.tour) {
    tour.hidden = button.dataset.tour === 'close';
    try { tour.hidden ? localStorage.setItem(SEEN, '1') : localStorage.removeItem(SEEN); } catch { /* private */ }
  }
  if (button.dataset.tab) window.unboxTab(button.dataset.tab);
});
