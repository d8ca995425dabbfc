// Tests that clients of all protocols receive the same publications in the same order, whoever publishes and whichever nodes fail.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from '../support/wait.mjs';
import { Cluster } from './cluster.mjs';
import { Crowd } from './crowd.mjs';
import { faults, mostWithin, untrue } from './told.mjs';
import { WIRES } from './wires.mjs';

const CLIENTS = Number(process.env.CROSS_CLIENTS ?? 20);
const NODES = 3;
const ROOMS = ['all:one', 'io:two'];
// The rate of each publisher. One process receives everything, so the rate falls with the number of clients.
const PER_SECOND = Math.min(4, 80 / CLIENTS);
const SOME = 16;
const DEADLINE_MS = 15_000 + 30 * CLIENTS;
// HAProxy checks health every second, or every half second after a failure, and marks a node as down after two failures.
const DRAIN = { noticeMs: 2_000, graceMs: 3_000 + 10 * CLIENTS };

const sum = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

test('clients of all wires at three nodes behind HAProxy', { timeout: 80_000 + 500 * CLIENTS }, async (t) => {
  const cluster = await Cluster.start(t, NODES, DRAIN);
  const crowd = await Crowd.gather(t, cluster, ROOMS, CLIENTS);
  t.diagnostic(`${crowd.clients.length} clients of ${Object.keys(WIRES).length} wires`);

  await t.test('nothing keeps clients of a wire together', async () => {
    const counts = await Promise.all(cluster.nodes.map((_, index) => cluster.connections(index)));
    for (const { protocol } of Object.values(WIRES)) {
      const at = counts.filter((count) => count[protocol] > 0).length;
      assert.ok(at >= 2, `${protocol} is at ${at} of the nodes`);
    }
  });

  await t.test('all publish, and all hear', async () => {
    crowd.publish(PER_SECOND);
    await crowd.published(2 * SOME);
  });

  await t.test('those of a node that is killed come back to the others', async () => {
    const there = sum(await cluster.connections(1));
    const moment = Date.now();
    await cluster.nodes[1].kill();
    await until('they are cut off', () => crowd.since(moment).cutOff.length >= there, DEADLINE_MS);
    await crowd.published(SOME);
    await crowd.allAreHere();
    const { cutOff, twice } = crowd.since(moment);
    assert.equal(cutOff.length - twice.length, there, 'and nobody else was');
    assert.ok(twice.length <= there / 100, `twice: ${JSON.stringify(twice)}`);
    await cluster.startNode(1);
  });

  await t.test('in a rolling restart each node lets its clients go at its pace, and they come back at it', async (t) => {
    for (const [index, node] of cluster.nodes.entries()) {
      await until('HAProxy sends clients to all', async () => (await cluster.up()) === NODES, DEADLINE_MS);
      const there = sum(await cluster.connections(index));
      const moment = Date.now();
      node.child.kill('SIGTERM');
      assert.equal(await node.gone, 0);
      await until('they have noticed', () => crowd.since(moment).cutOff.length >= there, DEADLINE_MS);
      await crowd.allAreHere();
      const { cutOff, back, twice } = crowd.since(moment);
      assert.deepEqual([twice, cutOff.length], [[], there], 'each of its clients was cut off once, and nobody else');
      // An even spread would be a fifth in a fifth of the time; pauses of the machine make it more.
      for (const [what, moments] of [['cut off', cutOff], ['back', back]]) {
        const most = mostWithin(moments, DRAIN.graceMs / 5);
        t.diagnostic(`node ${index}: of ${there} clients at most ${most} ${what} within ${DRAIN.graceMs / 5} ms`);
        assert.ok(most <= Math.max(4, 0.8 * there), `${most} of ${there} were ${what} together`);
      }
      await cluster.startNode(index);
    }
    await crowd.published(SOME);
  });

  await t.test('nobody is lost, nobody has missed anything that is not known to it, and all have one order', async (t) => {
    const all = await crowd.stopPublishing();
    for (const { wire, room } of crowd.clients) {
      assert.deepEqual(untrue(all({ wire, room }), crowd.tried.get(room), crowd.taken.get(room)), []);
    }
    const wrong = crowd.clients.map((client) => {
      const { name, room, wire, told } = client;
      return { name, room, faults: faults(told, all(client), wire.goesOn), told: told.story() };
    });
    assert.deepEqual(wrong.filter(({ faults }) => faults.length > 0).slice(0, 20), []);
    for (const name of Object.keys(WIRES)) {
      const of = crowd.clients.filter((client) => client.name === name);
      const [cut, missed] = [of.reduce((sum, { told }) => sum + told.cutOff.length, 0),
        of.reduce((sum, client) => sum + all(client).length - client.told.count, 0)];
      t.diagnostic(`${name}: cut off ${cut} times, missed ${missed}`);
      assert.ok(cut > 0, `${name} was never cut off`);
    }
  });
});
