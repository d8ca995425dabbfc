// What a node's metrics say: sums, rates between two moments, and quantiles of what came between them.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

// The samples of a text of metrics, by name.
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

// A publication counts where it was published. That a node has it from the broker, too, its own included, is counted as from `node`.
const counts = ({ labels }) => labels.source !== 'node';

// The sum over all labels.
export function total(samples, name) {
  return (samples.get(name) ?? []).filter(counts).reduce((sum, { value }) => sum + value, 0);
}

// The same for each value of one label.
export function totals(samples, name, label) {
  const sums = new Map();
  for (const { labels, value } of (samples.get(name) ?? []).filter(counts)) {
    sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  }
  return sums;
}

// By how much a counter has grown in a second. A node that was started anew begins at 0.
export function rate(before, now, name, seconds) {
  const [from, to] = [total(before, name), total(now, name)];
  return Math.max(0, to >= from ? to - from : to) / seconds;
}

// The same for each value of one label, as far as it has any.
export function rates(before, now, name, label, seconds) {
  const from = totals(before, name, label);
  return new Map([...totals(now, name, label)].map(([value, to]) => {
    const was = from.get(value) ?? 0;
    return [value, Math.max(0, to >= was ? to - was : to) / seconds];
  }));
}

// Below what the given part of the observations was that came between two moments, in the histogram's unit; null without any.
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
      // Beyond the last limit nothing is known but that.
      if (limit === Infinity || count === below) return low;
      return low + (limit - low) * ((wanted - below) / (count - below));
    }
    [low, below] = [limit, count];
  }
  return low;
}
