// Records what a client received, and checks it.

export class Told {
  // The received publications, in parts between which there may be gaps.
  parts = [];
  // The times in milliseconds at which the client was cut off and came back.
  cutOff = [];
  back = [];
  isHere = false;
  // Whether the client has given up reconnecting.
  isLost = false;
  // How often the client was told that publications cannot be recovered.
  losses = 0;

  // `recovered`: whether the client will receive everything that it has missed.
  began(recovered) {
    this.isHere = true;
    this.back.push(Date.now());
    if (this.parts.length > 0 && recovered) return;
    if (this.parts.length > 0) this.losses += 1;
    this.parts.push([]);
  }

  heard(key) {
    if (this.parts.length === 0) this.parts.push([]);
    this.parts.at(-1).push(key);
  }

  left() {
    if (this.isHere) this.cutOff.push(Date.now());
    this.isHere = false;
  }

  lostForGood() {
    this.left();
    this.isLost = true;
  }

  get count() {
    return this.parts.reduce((sum, part) => sum + part.length, 0);
  }

  // A summary for diagnosing a failure.
  story() {
    return { parts: this.parts.map(({ length }) => length), cutOff: this.cutOff, back: this.back, isHere: this.isHere };
  }

  get last() {
    return this.parts.findLast((part) => part.length > 0)?.at(-1);
  }
}

// Returns the faults in what a client received of a channel with the history `all`, which it followed from the beginning to the
// end. A client that `goesOn` recovers after a lost connection, and so misses nothing.
export function faults(told, all, goesOn) {
  const found = [];
  const places = new Map(all.map((key, place) => [key, place]));
  if (told.isLost) found.push('it is gone for good');
  if (told.parts.length > told.cutOff.length + 1) found.push('it may have missed something while it was connected');
  if (goesOn && told.losses > 0) found.push(`it was told ${told.losses} times that something is lost`);
  let next = 0;
  for (const [index, part] of told.parts.entries()) {
    for (const [at, key] of part.entries()) {
      const place = places.get(key);
      if (place === undefined) found.push(`${key} was never published`);
      else if (place < next) found.push(`${key} came again, or too late`);
      else if (place > next && (at > 0 || index === 0)) found.push(`${place - next} are missing before ${key}`);
      if (place !== undefined) next = Math.max(next, place + 1);
    }
  }
  if (next < all.length) found.push(`the last ${all.length - next} are missing`);
  return found;
}

// Returns the faults in a channel's history `all`, given the publications that were `tried` and those that were `taken`.
export function untrue(all, tried, taken) {
  const found = [];
  const there = new Set(all);
  if (there.size !== all.length) found.push('something is there twice');
  for (const key of taken) if (!there.has(key)) found.push(`${key} was taken and is not there`);
  const known = new Set(tried);
  for (const key of all) if (!known.has(key)) found.push(`${key} was published by nobody`);
  const numbers = new Map();
  for (const key of all) {
    const [, by, number] = /^(.*) (\d+)$/.exec(key);
    if (Number(number) <= (numbers.get(by) ?? 0)) found.push(`${key} comes after a later one of the same publisher`);
    numbers.set(by, Number(number));
  }
  return found;
}

// Returns the largest number of these moments within any `stretchMs` milliseconds.
export function mostWithin(moments, stretchMs) {
  const sorted = moments.toSorted((one, other) => one - other);
  let [most, from] = [0, 0];
  for (const [to, moment] of sorted.entries()) {
    while (moment - sorted[from] > stretchMs) from += 1;
    most = Math.max(most, to - from + 1);
  }
  return most;
}
