// What a client was told, and whether it is what it should have been.

export class Told {
  // What it heard, in parts between which something may lie that it did not hear.
  parts = [];
  // When it was cut off, and when it was back, in milliseconds.
  cutOff = [];
  back = [];
  isHere = false;
  // It does not come back by itself any more.
  isLost = false;
  // It was told that something cannot be given to it.
  losses = 0;

  // `recovered`: whatever it has not heard yet, it will hear.
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

  // For people who look for a fault.
  story() {
    return { parts: this.parts.map(({ length }) => length), cutOff: this.cutOff, back: this.back, isHere: this.isHere };
  }

  get last() {
    return this.parts.findLast((part) => part.length > 0)?.at(-1);
  }
}

// What is wrong with what a client was told of a channel that holds `all`, in this order, and that it has followed from the
// beginning to the end; nothing, if nothing is. Who `goesOn` after a loss of its connection misses nothing.
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

// What is wrong with a channel that holds `all`, of what was `tried`, and of that `taken`.
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

// The most of these moments in any stretch of so many milliseconds.
export function mostWithin(moments, stretchMs) {
  const sorted = moments.toSorted((one, other) => one - other);
  let [most, from] = [0, 0];
  for (const [to, moment] of sorted.entries()) {
    while (moment - sorted[from] > stretchMs) from += 1;
    most = Math.max(most, to - from + 1);
  }
  return most;
}
