// The tour is open until it is closed once in this browser, where no first task is there, or the window is narrow; its steps open their pages.
const SEEN = 'unbox-tour-closed', tour = element.querySelector('.ub-tour');
const seen = () => { try { return localStorage.getItem(SEEN); } catch { return null; } };
tour.hidden = Boolean(seen()) || window.innerWidth < 760 || element.querySelector('.ub-task') !== null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.tour) {
    tour.hidden = button.dataset.tour === 'close';
    try { tour.hidden ? localStorage.setItem(SEEN, '1') : localStorage.removeItem(SEEN); } catch { /* private */ }
  }
  if (button.dataset.tab) window.unboxTab(button.dataset.tab);
});
// The first task rings what is to be done next, until it is closed once in this browser.
const task = element.querySelector('.ub-task'), DONE = 'unbox-task-closed';
const shut = () => { try { return localStorage.getItem(DONE); } catch { return null; } };
if (task && !shut()) {
  task.hidden = false;
  const word = task.querySelector('[data-task]').dataset.task, all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (each) => each && each.offsetParent !== null, field = () => document.querySelector('#paint-palette [data-words]');
  const steps = [
    [() => all('#ub-tabs button[role=tab]').find((each) => each.textContent.trim() === 'Paint' && shown(each)) || document.querySelector('#ub-tabs .overflow-menu button'), () => shown(field())],
    [field, () => field()?.value.toLowerCase().includes(word)],
    [() => document.querySelector('#paint-swatches [data-swatch]'), () => document.querySelector('#paint-swatches .ub-swatch.ub-chosen')],
    [() => document.querySelector(task.querySelector('[data-act]').dataset.act), () => document.querySelector('#paint-layers .ub-layer')],
    [() => document.querySelector('#paint-make'), () => document.querySelector('#paint-result [alt=after]')],
  ];
  let at = 0;
  const timer = setInterval(() => {
    while (at < steps.length && steps[at][1]()) at += 1;
    for (const each of all('.ub-ring')) each.classList.remove('ub-ring');
    const target = at < steps.length ? steps[at][0]() : null;
    if (shown(target)) target.classList.add('ub-ring');
    task.querySelectorAll('li').forEach((each, i) => { each.classList.toggle('ub-off', i < at); if (i === at) each.setAttribute('aria-current', 'step'); else each.removeAttribute('aria-current'); });
    task.querySelector('[data-done]').hidden = at < steps.length;
  }, 400);
  task.querySelector('[data-task-close]').addEventListener('click', () => {
    clearInterval(timer);
    task.hidden = true;
    for (const each of all('.ub-ring')) each.classList.remove('ub-ring');
    try { localStorage.setItem(DONE, '1'); } catch { /* private */ }
  });
}
// The first Tab leads past the head: into the page that is open.
element.querySelector('[data-skip]').addEventListener('click', (event) => {
  event.preventDefault();
  const open = [...document.querySelectorAll('#ub-tabs [role=tabpanel]')].find((each) => each.offsetParent !== null);
  open?.querySelector('input:not([type=hidden]), textarea, button, [tabindex="0"]')?.focus();
});
