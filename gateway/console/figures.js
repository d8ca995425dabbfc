// Derives figures from a node's metrics: sums, rates between two moments, and quantiles of the observations between them.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

// Returns the samples in a text of metrics, by name.
export function parse(text) {
  const samples = new Map();
  for (const line of text.split('\n')) {
    const found = LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? '').matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!samples.has(found[1])) samples.set(found[1], []);
    samples.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return samples;
}

// A publication counts at the node where it was published. The source `node` counts what a node receives from the broker, including its
// own publications, and is left out.
const counts = ({ labels }) => labels.source !== 'node';

// Returns the sum over all labels.
export function total(samples, name) {
  return (samples.get(name) ?? []).filter(counts).reduce((sum, { value }) => sum + value, 0);
}

// Returns the sum for each value of one label.
export function totals(samples, name, label) {
  const sums = new Map();
  for (const { labels, value } of (samples.get(name) ?? []).filter(counts)) {
    sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  }
  return sums;
}

// Returns a counter's increase per second. A restarted node begins at 0.
export function rate(before, now, name, seconds) {
  const [from, to] = [total(before, name), total(now, name)];
  return Math.max(0, to >= from ? to - from : to) / seconds;
}

// Returns the increase per second for each present value of one label.
export function rates(before, now, name, label, seconds) {
  const from = totals(before, name, label);
  return new Map([...totals(now, name, label)].map(([value, to]) => {
    const was = from.get(value) ?? 0;
    return [value, Math.max(0, to >= was ? to - was : to) / seconds];
  }));
}

// Returns the quantile `part` of the observations between two moments, in the histogram's unit, or null if there are none.
export function quantile(before, now, name, part) {
  const buckets = new Map();
  for (const [samples, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
      const limit = Number(labels.le === '+Inf' ? Infinity : labels.le);
      buckets.set(limit, (buckets.get(limit) ?? 0) + sign * value);
    }
  }
  const limits = [...buckets.keys()].sort((a, b) => a - b);
  const all = buckets.get(Infinity) ?? 0;
  if (all <= 0) return null;
  const wanted = part * all;
  let [low, below] = [0, 0];
  for (const limit of limits) {
    const count = buckets.get(limit);
    if (count >= wanted) {
      // Observations above the last limit are only known to exceed it.
      if (limit === Infinity || count === below) return low;
      return low + (limit - low) * ((wanted - below) / (count - below));
    }
    [low, below] = [limit, count];
  }
  return low;
}
