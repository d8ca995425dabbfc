// Draws a series of numbers as the paths of an SVG whose view box is 100 by 100.

const TOP = 6;
const BOTTOM = 92;

// `slots` is the number of values that fill the width; a shorter series leaves space on the right.
export function sparkline(values, slots) {
  const low = Math.min(...values);
  const span = Math.max(...values) - low;
  const x = (index) => (100 * index) / (slots - 1);
  const y = (value) => (span ? BOTTOM - ((value - low) / span) * (BOTTOM - TOP) : 50);
  const points = values.map((value, index) => `${x(index).toFixed(2)},${y(value).toFixed(2)}`);
  const line = `M${points.join('L')}`;
  const last = values.length - 1;
  return { line, area: `${line}V100H0Z`, end: { x: x(last), y: y(values[last]) } };
}
