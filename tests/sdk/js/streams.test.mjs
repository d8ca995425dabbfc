// Tests the library over event streams and HTTP streams: its commands are separate requests, which may reach any node.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EventSource } from 'eventsource';

import {
  CONFIG, codeOf, connected, dataOf, inSeconds, next, offsetsOf, startBalancer, startNodes, subscribed, token, until,
} from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });
const TRANSPORTS = ['sse', 'http_stream'];

// Connects a client whose requests each go to the next node.
function through(t, balancer, transport, options) {
  const endpoint = balancer.http(`/connection/${transport}`);
  return connected(t, [{ transport, endpoint }], {
    emulationEndpoint: balancer.http('/emulation'), eventsource: EventSource, ...options,
  });
}

async function balanced(t) {
  const nodes = await startNodes(t, 2);
  return { nodes, balancer: await startBalancer(t, nodes.map(({ port }) => port)) };
}

for (const transport of TRANSPORTS) {
  test(`commands of a client over ${transport} are carried out whichever node they come to`, async (t) => {
    const { nodes, balancer } = await balanced(t);
    const ann = await through(t, balancer, transport, as('ann'));
    const home = balancer.of(`/connection/${transport}`)[0].port;
    const other = nodes.find(({ port }) => port !== home);
    const news = await subscribed(ann, 'news:a');
    for (const number of numbers(1, 10)) await news.publish(number);
    await other.publish('news:a', 11);
    await until('eleven publications', () => news.publications.length >= 11);
    assert.deepEqual(dataOf(news), numbers(1, 11));
    assert.deepEqual(offsetsOf(news), numbers(1, 11));
    assert.equal((await news.history({ limit: 3 })).publications.length, 3);
    assert.equal((await news.presenceStats()).numUsers, 1);
    assert.equal(await codeOf(ann.rpc('anything', {})), 108);

    const asked = balancer.of('/emulation');
    assert.ok(asked.every(({ status }) => status === 204), JSON.stringify(asked));
    assert.equal(new Set(asked.map(({ port }) => port)).size, 2, 'both nodes were asked');

    const { connections } = await other.api('connections', { user: 'ann' });
    const [listed] = Object.values(connections);
    assert.deepEqual([listed.transport, listed.protocol], [transport, 'json']);

    const ended = next(news, 'unsubscribed');
    await other.api('unsubscribe', { user: 'ann', channel: 'news:a' });
    assert.equal((await ended).code, 2000);
    const gone = next(ann, 'disconnected');
    await other.api('disconnect', { user: 'ann' });
    assert.equal((await gone).code, 3503);
  });

  test(`a client over ${transport} whose node is killed recovers at the other`, async (t) => {
    const { nodes, balancer } = await balanced(t);
    const ann = await through(t, balancer, transport, { ...as('ann'), timeout: 2_000 });
    const home = nodes.find(({ port }) => port === balancer.of(`/connection/${transport}`)[0].port);
    const other = nodes.find((node) => node !== home);
    const news = await subscribed(ann, 'news:a');
    for (const number of numbers(1, 3)) await other.publish('news:a', number);
    await until('three publications', () => news.publications.length === 3);

    const back = next(news, 'subscribed');
    await home.kill();
    for (const number of numbers(4, 6)) await other.publish('news:a', number);
    const context = await back;
    assert.deepEqual([context.wasRecovering, context.recovered], [true, true]);
    await news.publish(7);
    await until('seven publications', () => news.publications.length >= 7);
    assert.deepEqual(dataOf(news), numbers(1, 7));
  });
}

test('a POST for a node that is none is 404, one for a session that is none 204, one for a dead node no success', async (t) => {
  const { nodes } = await balanced(t);
  const [here, there] = nodes;
  const { nodes: known } = await here.api('info');
  const uid = known.find(({ name }) => name === 'node-2').uid;
  const emulate = async (node, session) => {
    const body = JSON.stringify({ node, session, data: '{"id":2,"rpc":{}}' });
    return (await fetch(here.http('/emulation'), { method: 'POST', body })).status;
  };
  assert.equal(await emulate('nobody', 'x'), 404);
  assert.equal(await emulate(uid, 'x'), 204);
  assert.equal(await emulate(uid, 'A'.repeat(22)), 204);
  await there.kill();
  // The library reconnects after each of these statuses.
  const status = await emulate(uid, 'x');
  assert.ok(status === 404 || status >= 500, `${status}`);
});
