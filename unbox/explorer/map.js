// The map of a dictionary: points on a canvas; the nearest is named, a click or Enter opens it.
let places = null, labels = [], sae = '', chosen = -1;
const sheet = () => element.querySelector('canvas[data-map]');
const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
const hue = (i) => `hsl(${(i * 137.5) % 360} 65% 45%)`;
const shade = (i) => i === 0 ? 'rgb(140 140 140 / .5)' : `hsl(${250 - 0.85 * i} 75% 48%)`;
function load() {
  const of = sheet();
  if (!of) return;
  const raw = bytes(of.dataset.places);
  places = new Uint16Array(raw.buffer);
  labels = JSON.parse(of.dataset.labels);
  sae = of.dataset.map;
  chosen = -1;
  draw();
}
const at = (i) => [24 + places[2 * i] / 65535 * (sheet().width - 48), 24 + places[2 * i + 1] / 65535 * (sheet().height - 48)];
function draw() {
  const of = sheet(), pen = of.getContext('2d'), shades = bytes(of.dataset.shades), colour = of.dataset.palette ? hue : shade;
  const size = labels.length > 2000 ? 4 : 7;
  pen.clearRect(0, 0, of.width, of.height);
  for (let i = 0; i < labels.length; i++) {
    const [x, y] = at(i);
    pen.fillStyle = colour(shades[i]);
    pen.beginPath();
    pen.arc(x, y, size, 0, 7);
    pen.fill();
  }
  if (chosen < 0) return;
  const [x, y] = at(chosen);
  pen.strokeStyle = getComputedStyle(of).color;
  pen.lineWidth = 3;
  pen.beginPath();
  pen.arc(x, y, size + 6, 0, 7);
  pen.stroke();
}
function nearest(x, y, among = () => true) {
  let best = -1, least = Infinity;
  for (let i = 0; i < labels.length; i++) {
    const [px, py] = at(i), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least && among(i, px, py)) { least = far; best = i; }
  }
  return best;
}
function choose(i) {
  if (i < 0 || i === chosen) return;
  chosen = i;
  draw();
  element.querySelector('[data-near]').textContent = `${sae}/${i} ${labels[i] || 'no label'}`;
}
const place = (event) => { const box = sheet().getBoundingClientRect(); return [(event.clientX - box.left) / box.width * sheet().width, (event.clientY - box.top) / box.height * sheet().height]; };
const go = () => { if (chosen >= 0) trigger('click', { feature: `${sae}/${chosen}` }); };
element.addEventListener('pointermove', (event) => { if (event.target.matches('[data-map]')) choose(nearest(...place(event))); });
element.addEventListener('click', (event) => {
  if (event.target.matches('[data-map]')) { choose(nearest(...place(event))); go(); return; }
  const button = event.target.closest('[data-go]');
  if (button) trigger('click', JSON.parse(button.dataset.go));
});
element.addEventListener('keydown', (event) => {
  if (!event.target.matches('[data-map]')) return;
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === 'Enter') go();
  if (!by) return;
  event.preventDefault();
  const [x, y] = chosen < 0 ? [sheet().width / 2, sheet().height / 2] : at(chosen);
  choose(nearest(x, y, (i, px, py) => i !== chosen && (chosen < 0 || (px - x) * by[0] + (py - y) * by[1] > Math.abs((px - x) * by[1]) + Math.abs((py - y) * by[0]))));
});
watch('value', load);
load();
