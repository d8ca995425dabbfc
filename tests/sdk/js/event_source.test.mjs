// Tests generic readers of server-sent events: which events they receive, and from where they recover.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { READERS } from './readers.mjs';
import { CONFIG, startGateway, startRelay, until } from './support.mjs';

const ON = { TIDEGATE_SSE__ENABLED: 'true', TIDEGATE_SSE__RETRY_MS: '100' };
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

const ofType = (told, ...types) => told.events.filter(({ type }) => types.includes(type));
const data = (told, ...types) => ofType(told, ...types).map(({ data }) => JSON.parse(data));

for (const [name, read] of Object.entries(READERS)) {
  test(`${name} is given one channel, and goes on behind its last event when it was cut off`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG, env: ON });
    const relay = await startRelay(t, gateway.port);
    const told = read(t, `http://127.0.0.1:${relay.port}/sse?channel=news:a`);
    await until('it has begun', () => ofType(told, 'subscribed').length === 1);
    for (const number of numbers(1, 3)) await gateway.publish('news:a', number);
    await until('three events', () => ofType(told, 'message').length === 3);
    relay.cut();
    for (const number of numbers(4, 6)) await gateway.publish('news:a', number);
    relay.restore();
    await until('six events', () => ofType(told, 'message').length >= 6);
    await gateway.publish('news:a', 7);
    await until('the seventh', () => ofType(told, 'message').length >= 7);
    assert.deepEqual(data(told, 'message'), numbers(1, 7));
    assert.equal(data(told, 'subscribed')[1].channels['news:a'].recovered, true);
    assert.ok(told.begun >= 2);
  });

  test(`${name} goes on behind its last event in each of several channels`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG, env: ON });
    const relay = await startRelay(t, gateway.port);
    const channels = ['news:a', 'news:b'];
    const query = channels.map((channel) => `channel=${channel}`).join('&');
    const told = read(t, `http://127.0.0.1:${relay.port}/sse?${query}`, channels);
    await until('it has begun', () => ofType(told, 'subscribed').length === 1);
    for (const [channel, number] of [['news:a', 1], ['news:b', 2], ['news:b', 3]]) await gateway.publish(channel, number);
    await until('three events', () => ofType(told, ...channels).length === 3);
    relay.cut();
    for (const [channel, number] of [['news:b', 4], ['news:a', 5], ['news:b', 6]]) await gateway.publish(channel, number);
    relay.restore();
    await until('six events', () => ofType(told, ...channels).length >= 6);
    assert.deepEqual([data(told, 'news:a'), data(told, 'news:b')], [[1, 5], [2, 3, 4, 6]]);
    assert.match(told.events.at(-1).id, /^news:a=[a-z]+:2&news:b=[a-z]+:4$/);
  });

  test(`${name} hears nothing of keep-alive, and why its stream ends`, async (t) => {
    const env = { ...ON, TIDEGATE_SESSION__PING_INTERVAL_MS: '1000', TIDEGATE_SESSION__PONG_TIMEOUT_MS: '500' };
    const gateway = await startGateway(t, { config: CONFIG, env });
    const told = read(t, gateway.http('/sse?channel=news:a'));
    await until('it has begun', () => ofType(told, 'subscribed').length === 1);
    const { client } = data(told, 'subscribed')[0];
    const start = Date.now();
    await until('two pings have gone out', () => Date.now() - start > 2_500);
    assert.equal(told.events.length, 1, JSON.stringify(told.events));
    await gateway.api('disconnect', { user: '', client });
    await until('the end', () => ofType(told, 'disconnect').length === 1);
    assert.deepEqual(data(told, 'disconnect'), [{ code: 3503, reason: 'force disconnect' }]);
    await until('it comes back', () => ofType(told, 'subscribed').length === 2);
  });

  test(`${name} is told by a status that it may not`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG, env: ON });
    const told = read(t, gateway.http('/sse?channel=shut:a'));
    await until('the refusal', () => told.refused === 403);
    assert.equal(told.events.length, 0);
  });
}

// This is why a node does not refuse for temporary reasons: it accepts the stream and then ends it.
for (const name of ['eventsource 4', 'eventsource 5']) {
  test(`${name} never comes back after a refusal, even if it was let in before`, async (t) => {
    const [open, shut] = [await startGateway(t, { config: CONFIG, env: ON }),
      await startGateway(t, { config: CONFIG, env: { ...ON, TIDEGATE_AUTH__ALLOW_ANONYMOUS: 'false' } })];
    const relay = await startRelay(t, open.port);
    const told = READERS[name](t, `http://127.0.0.1:${relay.port}/sse?channel=news:a`);
    await until('it has begun', () => ofType(told, 'subscribed').length === 1);
    relay.target = shut.port;
    relay.cut();
    relay.restore();
    await until('the refusal', () => told.refused === 401);
    assert.ok(told.isClosed());
  });
}

test('eventsource-client comes back after a refusal', async (t) => {
  const [open, shut] = [await startGateway(t, { config: CONFIG, env: ON }),
    await startGateway(t, { config: CONFIG, env: { ...ON, TIDEGATE_AUTH__ALLOW_ANONYMOUS: 'false' } })];
  const relay = await startRelay(t, shut.port);
  const told = READERS['eventsource-client'](t, `http://127.0.0.1:${relay.port}/sse?channel=news:a`);
  await until('the refusal', () => told.refused === 401);
  assert.ok(!told.isClosed());
  relay.target = open.port;
  await until('it is let in', () => ofType(told, 'subscribed').length === 1);
});
