// Tests subscriptions whose connection is lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, connected, dataOf, next, offsetsOf, startGateway, startRelay, subscribed, until,
} from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

async function publish(gateway, channel, from, to) {
  for (const number of numbers(from, to)) await gateway.publish(channel, number);
}

test('a fresh subscription to a channel with history has a position', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  await publish(gateway, 'news:a', 1, 3);
  const { context } = await subscribed(await connected(t, gateway.url), 'news:a');
  assert.deepEqual(
    [context.recoverable, context.positioned, context.wasRecovering, context.recovered],
    [true, true, false, false],
  );
  assert.equal(context.streamPosition.offset, 3);
  assert.match(context.streamPosition.epoch, /./);
});

test('where history is kept but recovery not forced, a client gets what it asks for', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url);
  const flags = ({ context }) => [context.positioned, context.recoverable, Boolean(context.streamPosition)];
  assert.deepEqual(flags(await subscribed(ann, 'quiet:a')), [false, false, false]);
  assert.deepEqual(flags(await subscribed(ann, 'quiet:b', { positioned: true })), [true, false, true]);
  assert.deepEqual(flags(await subscribed(ann, 'quiet:c', { recoverable: true })), [true, true, true]);
  assert.deepEqual(flags(await subscribed(ann, 'plain:a', { recoverable: true })), [false, false, false]);
});

test('after a cut everything missed arrives, in order and once, before anything new', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const relay = await startRelay(t, gateway.port);
  const ann = await connected(t, relay.url);
  const news = await subscribed(ann, 'news:a');
  await publish(gateway, 'news:a', 1, 3);
  await until('the first three', () => news.publications.length === 3);

  const lost = next(ann, 'connecting');
  relay.cut();
  assert.equal((await lost).code, 1, 'the transport was closed');
  await publish(gateway, 'news:a', 4, 8);
  const back = next(news, 'subscribed');
  relay.restore();
  const context = await back;
  assert.deepEqual(
    [context.wasRecovering, context.recovered, context.hasRecoveredPublications],
    [true, true, true],
  );
  await publish(gateway, 'news:a', 9, 10);
  await until('all ten', () => news.publications.length >= 10);
  assert.deepEqual(dataOf(news), numbers(1, 10));
  assert.deepEqual(offsetsOf(news), numbers(1, 10));
});

test('nothing is lost or repeated when publications go on throughout many cuts', async (t) => {
  const config = CONFIG.replaceAll('history_size = 10', 'history_size = 1000');
  const gateway = await startGateway(t, { config: `${config}\n[session]\nrecovery_limit_max = 1000\n` });
  const relay = await startRelay(t, gateway.port);
  const news = await subscribed(await connected(t, relay.url), 'news:a');
  const recovered = [];
  news.on('subscribed', (context) => recovered.push(context.recovered));
  const cuts = 5;
  let published = 0;
  const publishing = (async () => {
    while (recovered.length < cuts) await gateway.publish('news:a', (published += 1));
  })();
  for (let cut = 1; cut <= cuts; cut += 1) {
    const before = news.publications.length;
    await until('some publications', () => news.publications.length > before + 5);
    relay.cut();
    const missed = published + 5;
    await until('some are missed', () => published > missed);
    relay.restore();
    await until('it is back', () => recovered.length === cut);
  }
  await publishing;
  await until('the last one', () => news.publications.length >= published);
  assert.deepEqual(dataOf(news), numbers(1, published));
  assert.deepEqual(recovered, Array(cuts).fill(true));
});

test('a client that was away for longer than history reaches is told so', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const relay = await startRelay(t, gateway.port);
  const ann = await connected(t, relay.url);
  const news = await subscribed(ann, 'news:a');
  await publish(gateway, 'news:a', 1, 1);
  await until('the first', () => news.publications.length === 1);
  const lost = next(ann, 'connecting');
  relay.cut();
  await lost;
  await publish(gateway, 'news:a', 2, 20);
  const back = next(news, 'subscribed');
  relay.restore();
  const context = await back;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
  assert.equal(context.streamPosition.offset, 20);
  await publish(gateway, 'news:a', 21, 21);
  await until('a new one', () => news.publications.length === 2);
  assert.deepEqual(dataOf(news), [1, 21]);
});

test('a stream that has begun anew is not taken for the old one', async (t) => {
  const [first, second] = [await startGateway(t, { config: CONFIG }), await startGateway(t, { config: CONFIG })];
  const relay = await startRelay(t, first.port);
  const news = await subscribed(await connected(t, relay.url), 'news:a');
  await publish(first, 'news:a', 1, 3);
  await until('three publications', () => news.publications.length === 3);
  // The same offsets, but in a stream with another epoch.
  await publish(second, 'news:a', 1, 5);
  relay.target = second.port;
  const back = next(news, 'subscribed');
  await first.kill();
  const context = await back;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, false]);
  assert.deepEqual(dataOf(news), [1, 2, 3]);
});

test('a subscription can start from a position that the application has kept', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  await publish(gateway, 'news:a', 1, 5);
  const { offset, epoch } = await gateway.api('history', { channel: 'news:a', limit: 0 });
  assert.equal(offset, 5);
  const news = await subscribed(await connected(t, gateway.url), 'news:a', { since: { offset: 2, epoch } });
  await until('three publications', () => news.publications.length === 3);
  assert.deepEqual(dataOf(news), [3, 4, 5]);
});
