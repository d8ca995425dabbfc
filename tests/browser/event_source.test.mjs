// Tests Chromium's EventSource: one channel and several, recovery after a lost connection, and permanent refusals.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { newPage, startGateway, startRelay, until } from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

// Opens a page of the demo's origin, with a source that records its events.
async function open(t, port, path, types = []) {
  const page = await newPage(t);
  await page.goto(`http://127.0.0.1:${port}/`);
  await page.evaluate(
    ([path, types]) => {
      window.told = [];
      window.source = new EventSource(path);
      const note = ({ type, data, lastEventId }) => window.told.push({ type, data, id: lastEventId });
      for (const type of ['message', 'subscribed', 'disconnect', ...types]) window.source.addEventListener(type, note);
    },
    [path, types],
  );
  const told = () => page.evaluate(() => window.told);
  return { page, told, ofType: async (...of) => (await told()).filter(({ type }) => of.includes(type)) };
}

test('a page follows channels and goes on behind its last event in each', async (t) => {
  const gateway = await startGateway(t, { demo: true, env: { TIDEGATE_SSE__RETRY_MS: '100', TIDEGATE_DEMO__FEED: 'false' } });
  const relay = await startRelay(t, gateway.port);
  const channels = ['chat:a', 'prices:b'];
  for (const of of [['prices:one'], channels]) {
    const types = of.length > 1 ? of : [];
    const heard = of.length > 1 ? of : ['message'];
    const query = of.map((channel) => `channel=${channel}`).join('&');
    const { ofType } = await open(t, relay.port, `/sse?${query}`, types);
    await until('it has begun', async () => (await ofType('subscribed')).length === 1);
    for (const number of numbers(1, 4)) await gateway.publish(of[number % of.length], number);
    await until('four events', async () => (await ofType(...heard)).length === 4);
    relay.cut();
    for (const number of numbers(5, 8)) await gateway.publish(of[number % of.length], number);
    relay.restore();
    await until('eight events', async () => (await ofType(...heard)).length >= 8);
    const seen = (await ofType(...heard)).map(({ data }) => JSON.parse(data));
    assert.deepEqual(seen.toSorted((one, other) => one - other), numbers(1, 8));
  }
});

test('a page that may not follow a channel does not come back', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const { page, told } = await open(t, gateway.port, '/sse?channel=$secret');
  await until('it is closed', () => page.evaluate(() => window.source.readyState === EventSource.CLOSED));
  assert.deepEqual(await told(), []);
});
