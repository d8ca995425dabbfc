// A moving plot of a few series, with a scale, a legend and a description in words.

const SVG = 'http://www.w3.org/2000/svg';
const [WIDTH, HEIGHT] = [480, 150];
const SIDES = { left: 52, right: 8, top: 10, bottom: 20 };
const LINES = 3;

function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Returns the lowest of the steps times a power of ten that is not below the value.
function ceiling(value, steps) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return steps.map((step) => step * power).find((step) => step >= value);
}

const STEPS = [1, 2, 5, 10];
// For whole numbers, so that the middle of the scale is one too.
const EVEN_STEPS = [2, 4, 10];

export class Plot {
  // `series`: names. `format`: a value in words. `samples`: how many are shown. `whole`: whether all values are whole numbers.
  constructor({ title, series, format, samples, whole = false }) {
    Object.assign(this, { title, series, format, samples, whole });
    this.moments = [];
    this.element = document.createElement('figure');
    this.element.className = 'plot';
    const caption = document.createElement('figcaption');
    const name = document.createElement('span');
    name.textContent = title;
    this.now = document.createElement('span');
    this.now.className = 'now';
    caption.append(name, this.now);
    this.svg = shape('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img' });
    this.element.append(caption, this.svg);
    this.draw();
  }

  // A value for each series, or null where there is none.
  push(at, values) {
    this.moments.push({ at, values });
    this.moments.splice(0, this.moments.length - this.samples);
    this.draw();
  }

  draw() {
    const all = this.moments.flatMap(({ values }) => values).filter((value) => value !== null);
    const highest = Math.max(0, ...all);
    const top = this.whole ? ceiling(Math.max(2, highest), EVEN_STEPS) : ceiling(highest, STEPS);
    const x = (index) => SIDES.left + ((WIDTH - SIDES.left - SIDES.right) * (index + this.samples - this.moments.length)) / (this.samples - 1);
    const y = (value) => HEIGHT - SIDES.bottom - ((HEIGHT - SIDES.top - SIDES.bottom) * value) / top;
    const parts = [];
    for (let line = 0; line < LINES; line += 1) {
      const value = (top * line) / (LINES - 1);
      parts.push(shape('line', { class: 'grid', x1: SIDES.left, x2: WIDTH - SIDES.right, y1: y(value), y2: y(value) }));
      parts.push(shape('text', { class: 'tick', x: SIDES.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, this.format(value)));
    }
    const seconds = this.moments.length > 1 ? Math.round((this.moments.at(-1).at - this.moments[0].at) / 1_000) : 0;
    if (seconds > 0) {
      // Shows both labels only where there is room for them.
      if (this.moments.length > this.samples / 4) parts.push(shape('text', { class: 'tick', x: x(0), y: HEIGHT - 4 }, `${seconds} s ago`));
      parts.push(shape('text', { class: 'tick', x: WIDTH - SIDES.right, y: HEIGHT - 4, 'text-anchor': 'end' }, 'now'));
    }
    this.series.forEach((_, at) => {
      let path = '';
      this.moments.forEach(({ values }, index) => {
        if (values[at] === null) return;
        const follows = index > 0 && this.moments[index - 1].values[at] !== null;
        path += `${follows ? 'L' : 'M'}${x(index).toFixed(1)} ${y(values[at]).toFixed(1)}`;
      });
      parts.push(shape('path', { class: `line series-${at}`, d: path }));
    });
    this.svg.replaceChildren(...parts);
    const last = this.moments.at(-1)?.values ?? [];
    const words = this.series.map((name, at) => ({ name, text: last[at] === null || last[at] === undefined ? '–' : this.format(last[at]) }));
    this.now.replaceChildren(...words.map(({ name, text }, at) => {
      const word = document.createElement('span');
      word.className = `key series-${at}`;
      word.textContent = this.series.length > 1 ? `${name} ${text}` : text;
      return word;
    }));
    this.svg.setAttribute('aria-label', `${this.title}: ${words.map(({ name, text }) => `${name} ${text}`).join(', ')}`);
  }
}
