// Elements of the page, and formats of figures.

// Creates an element with attributes and children. An attribute with a function is a listener for the event of that name.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Creates a table. `columns`: a title, the cell for a row, and whether it is a number. `key`: identifies a row when the table is
// refreshed; by default the text of its first cell.
export function table(columns, rows, nothing, key = (_, [first]) => first.textContent) {
  if (rows.length === 0) return el('p', { class: 'note' }, nothing);
  const head = el('tr', {}, columns.map(({ title, number }) => el('th', { scope: 'col', class: number ? 'number' : undefined }, title)));
  const body = rows.map((row) => {
    const cells = columns.map(({ title, cell, number }) => el('td', { 'data-title': title, class: number ? 'number' : undefined }, cell(row)));
    return el('tr', { 'data-key': key(row, cells) }, cells);
  });
  return el('div', { class: 'wide' }, el('table', {}, el('thead', {}, head), el('tbody', {}, body)));
}

// Creates a list of names and values.
export function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

export function field(label, input) {
  return el('label', { class: 'field' }, el('span', {}, label), input);
}

// Creates a form. `send` gets its values by name, and returns a message about the result.
export function form(fields, action, send) {
  const said = el('p', { class: 'said', role: 'status' });
  const button = el('button', { type: 'submit' }, action);
  const element = el('form', { submit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.className = 'said';
    said.textContent = '';
    try {
      said.textContent = (await send(Object.fromEntries(new FormData(element)))) ?? '';
    } catch (error) {
      said.className = 'said wrong';
      said.textContent = error.message;
    }
    button.disabled = false;
  } }, fields, button, said);
  return element;
}

// Addresses within the page, with encoded names.
export const address = (part, ...names) => `#${[part, ...names.map(encodeURIComponent)].join('/')}`;

export const link = (text, part, ...names) => el('a', { href: address(part, ...names) }, text);

const UNITS = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']];

// 12.3k
export function count(value) {
  const [size, unit] = UNITS.find(([size]) => value >= size) ?? [1, ''];
  const scaled = value / size;
  const digits = scaled >= 100 || Number.isInteger(scaled) ? 0 : scaled >= 10 ? 1 : 2;
  return `${scaled.toFixed(digits)}${unit}`;
}

// 1 client, 2 clients
export const several = (value, thing) => `${count(value)} ${thing}${value === 1 ? '' : 's'}`;

export const bytes = (value) => (value < 1024 ? `${Math.round(value)} B` : value < 2 ** 20 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 2 ** 20).toFixed(1)} MiB`);

export const seconds = (value) => (value < 0.000_9995 ? `${Math.round(value * 1e6)} µs` : value < 0.9995 ? `${(value * 1e3).toPrecision(3)} ms` : `${value.toPrecision(3)} s`);

// Formats an age in seconds.
export function age(total) {
  if (total < 60) return `${Math.floor(total)} s`;
  if (total < 3_600) return `${Math.floor(total / 60)} min`;
  if (total < 86_400) return `${Math.floor(total / 3_600)} h ${Math.floor((total % 3_600) / 60)} min`;
  return `${Math.floor(total / 86_400)} d ${Math.floor((total % 86_400) / 3_600)} h`;
}

export const ago = (ms) => `${age(Math.max(0, Date.now() - ms) / 1_000)} ago`;

// Formats a JSON value, on one line if it is short.
export function json(value) {
  const line = JSON.stringify(value);
  return el('code', { class: 'json' }, line.length <= 120 ? line : JSON.stringify(value, null, 2));
}
