// A picture that takes little time is made again 300 ms after the last change; the run of before is ended.
let timer = null, tries = 0;
const wanted = () => element.querySelector('[data-rerun]');
function rerun() {
  if (!wanted()) return;
  if (document.querySelector('[data-strength]:active')) { timer = setTimeout(rerun, 300); return; }
  document.querySelector('#paint-stop')?.click();
  setTimeout(() => { if (wanted()) document.querySelector('#paint-make')?.click(); }, 80);
  tries += 1;
  if (tries < 3) timer = setTimeout(rerun, 4000);  // a click that came while the old run was being ended is none
}
watch('value', () => {
  clearTimeout(timer);
  tries = 0;
  if (wanted()) timer = setTimeout(rerun, 300);
});
