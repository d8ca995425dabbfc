// Tests the detection of faults: each kind is found, and none is found where there is none.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Told, faults, mostWithin, untrue } from './told.mjs';

const ALL = ['a 1', 'b 1', 'a 2', 'b 2'];

// A record of these parts; `recovered`: without gaps between them.
function told(parts, recovered = false) {
  const made = new Told();
  for (const part of parts) {
    made.left();
    made.began(recovered);
    part.forEach((key) => made.heard(key));
  }
  return made;
}

test('who has heard everything in its order has no fault, with whatever it was cut off', () => {
  assert.deepEqual(faults(told([ALL]), ALL, true), []);
  assert.deepEqual(faults(told([ALL.slice(0, 2), ALL.slice(2)], true), ALL, true), []);
  assert.deepEqual(faults(told([ALL.slice(0, 1), ALL.slice(3)]), ALL, false), [], 'what lies between may be missing');
});

test('each kind of fault is found', () => {
  const one = (made, goesOn = true) => faults(made, ALL, goesOn)[0];
  assert.match(one(told([['a 1', 'a 2', 'b 2']])), /1 are missing before a 2/);
  assert.match(one(told([['b 1', 'a 2', 'b 2']]), false), /1 are missing before b 1/);
  assert.match(one(told([['a 1', 'b 1', 'b 1', 'a 2', 'b 2']])), /came again/);
  assert.match(one(told([['a 1', 'a 2', 'b 1', 'b 2']])), /missing before a 2/);
  assert.match(one(told([ALL.slice(0, 3)])), /the last 1 are missing/);
  assert.match(one(told([['a 1', 'b 1', 'x 9', 'a 2', 'b 2']])), /never published/);
  assert.match(one(told([ALL.slice(0, 2), ALL.slice(2)])), /something is lost/);
  assert.match(one(told([ALL.slice(0, 2), ALL.slice(1)], true)), /came again/);
  const gone = told([ALL]);
  gone.lostForGood();
  assert.match(one(gone), /gone for good/);
  const unnoticed = told([ALL.slice(0, 2)]);
  unnoticed.began(false);
  ALL.slice(2).forEach((key) => unnoticed.heard(key));
  assert.match(one(unnoticed, false), /while it was connected/);
});

test('a channel that lost, doubled, swapped or made up something is untrue', () => {
  const tried = [...ALL, 'b 3'];
  assert.deepEqual(untrue(ALL, tried, ALL.slice(1)), []);
  assert.match(untrue(ALL, tried, tried)[0], /b 3 was taken and is not there/);
  assert.match(untrue([...ALL, 'c 1'], tried, [])[0], /published by nobody/);
  assert.match(untrue([...ALL, 'b 2'], tried, [])[0], /twice/);
  assert.match(untrue(['a 2', 'a 1'], tried, [])[0], /after a later one/);
});

test('how many fall together is counted over any stretch', () => {
  assert.equal(mostWithin([0, 10, 20, 30], 10), 2);
  assert.equal(mostWithin([30, 5, 5, 6], 10), 3);
  assert.equal(mostWithin([], 10), 0);
});
