<script>
// A mistake is one line beside the field that it is in, else under the row of the button that was pressed, in
// place of Gradio's passing message; it goes when that field is changed, or anything is pressed again.
(() => {
let pressed = null;
const open = () => [...document.querySelectorAll('#ub-tabs [role=tabpanel]')].find((each) => each.offsetParent !== null);
const shown = (each) => each.offsetParent !== null;
const plain = (text) => text.toLowerCase().replaceAll('_', ' ').trim();

// The field of a message: "picture: seed = -1: should be ..." (FieldError of unbox/errors.py).
const fieldOf = (text) => text.match(/^(?:[^:=]{1,40}: )?([\w .[\]-]{1,60}?)(?: = |: | is missing| should )/)?.[1] || '';

// The field that is called so on the page that is open: by its element's name, else by its label.
function called(page, name) {
  if (!name) return undefined;
  const key = name.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  const byId = [...page.querySelectorAll(`[id$="-${key}"]`)].find((each) => each.querySelector('input, textarea'));
  if (byId) return byId.querySelector('input, textarea');
  const label = (each) => plain(each.labels?.[0]?.textContent || each.ariaLabel || '');
  for (const start of [plain(name), plain(name).split(' ')[0]]) {
    const fields = [...page.querySelectorAll('input, textarea')].filter((each) => label(each).startsWith(start));
    if (fields.length) return fields.find(shown) || fields[0];
  }
  return undefined;
}

function forget() {
  document.querySelectorAll('.ub-error').forEach((each) => each.remove());
  document.querySelectorAll('[data-mistaken]').forEach((each) => {
    each.removeAttribute('aria-invalid');
    each.removeAttribute('aria-describedby');
    each.removeAttribute('data-mistaken');
  });
}

function tell(toast) {
  const text = toast.querySelector('[data-testid=toast-text], .toast-message-text'), page = open();
  if (!text || !page) return;
  const outside = [...page.querySelectorAll('input:out-of-range')].find(shown);
  const input = called(page, fieldOf(text.textContent.trim())) || outside;
  const block = input && shown(input) ? input.closest('.form') || input.closest('.block') : null;
  const near = block || (page.contains(pressed) ? pressed : null);
  const row = near?.closest('.ub-toolbar') || near?.closest('.block') || page.querySelector('.ub-toolbar');
  if (!row) return;
  forget();
  const line = Object.assign(document.createElement('p'), { className: 'ub-error', id: 'ub-error' });
  line.setAttribute('role', 'alert');
  line.textContent = text.textContent.trim();
  row.after(line);
  if (input) {
    input.dataset.mistaken = '1';
    input.setAttribute('aria-invalid', 'true');
    input.setAttribute('aria-describedby', 'ub-error');
  }
  toast.querySelector('[data-testid=toast-close]')?.click();
}

// At the click, not before: what is under the pointer must not move while a button is held.
document.addEventListener('click', (event) => {
  const button = event.target.closest('button, [data-go], canvas, input, select');
  if (!button || button.closest('.toast-wrap')) return;
  pressed = button;
  if (button.tagName === 'BUTTON') forget();
}, true);
document.addEventListener('change', (event) => { if (event.target.type === 'file') pressed = event.target; }, true);
document.addEventListener('input', (event) => { if (event.target.dataset?.mistaken) forget(); }, true);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && event.target.closest('input, textarea')) { pressed = event.target; forget(); }
}, true);
new MutationObserver(() => {
  document.querySelectorAll('.toast-body.error:not([data-told])').forEach((toast) => {
    toast.dataset.told = '1';
    tell(toast);
  });
}).observe(document.documentElement, { childList: true, subtree: true });
})();
</script>
