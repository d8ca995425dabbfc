// Tests how the library reacts to closes, ended subscriptions and pings.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, bare, connected, dataOf, inSeconds, next, startGateway, startRelay, subscribed, token, until,
} from './support.mjs';

const PINGS = `${CONFIG}\n[session]\nping_interval_ms = 1000\npong_timeout_ms = 300\n`;
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });

test('a user whom the server disconnects stays away', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [ann, bob] = [await connected(t, gateway.url, as('ann')), await connected(t, gateway.url, as('bob'))];
  const event = next(ann, 'disconnected');
  await gateway.api('disconnect', { user: 'ann' });
  assert.deepEqual(await event, { code: 3503, reason: 'force disconnect' });
  assert.equal(bob.state, 'connected');
});

test('one client of a user can be disconnected, or all but one', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const clients = [];
  for (let count = 0; count < 3; count += 1) clients.push(await connected(t, gateway.url, as('ann')));
  const [first, second, third] = clients;
  const gone = next(first, 'disconnected');
  await gateway.api('disconnect', { user: 'ann', client: first.context.client });
  await gone;
  const alsoGone = next(second, 'disconnected');
  await gateway.api('disconnect', { user: 'ann', whitelist: [third.context.client] });
  await alsoGone;
  assert.equal(third.state, 'connected');
});

test('the application chooses the code, and the code whether the client comes back', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const news = await subscribed(ann, 'news:a');
  const [away, back] = [next(ann, 'connecting'), next(ann, 'connected')];
  await gateway.api('disconnect', { user: 'ann', disconnect: { code: 4000, reason: 'moved' } });
  assert.deepEqual(await away, { code: 4000, reason: 'moved' });
  await back;
  await until('subscribed again', () => news.state === 'subscribed');
  await gateway.publish('news:a', 1);
  await until('a publication', () => news.publications.length);

  const end = next(ann, 'disconnected');
  await gateway.api('disconnect', { user: 'ann', disconnect: { code: 4500, reason: 'banned' } });
  assert.deepEqual(await end, { code: 4500, reason: 'banned' });
});

test('a subscription that the server ends stays ended, and the connection stays', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const [ended, kept] = [await subscribed(ann, 'news:a'), await subscribed(ann, 'news:b')];
  const event = next(ended, 'unsubscribed');
  await gateway.api('unsubscribe', { user: 'ann', channel: 'news:a' });
  assert.equal((await event).code, 2000);
  await gateway.publish('news:a', 1);
  await gateway.publish('news:b', 2);
  await until('the other publication', () => kept.publications.length);
  assert.deepEqual([dataOf(ended), dataOf(kept)], [[], [2]]);
});

test('a client that answers pings is kept', async (t) => {
  const gateway = await startGateway(t, { config: PINGS });
  const ann = await connected(t, gateway.url);
  const left = [];
  ann.on('connecting', (context) => left.push(context));
  let pings = 0;
  ann._transport._transport.addEventListener('message', ({ data }) => (pings += data === '{}' ? 1 : 0));
  await until('three pings', () => pings >= 3);
  assert.deepEqual(left, []);
});

test('a client that does not answer a ping is closed with 3012', async (t) => {
  const gateway = await startGateway(t, { config: PINGS });
  const socket = await bare(t, gateway.url);
  socket.send('{"id":1,"connect":{}}');
  assert.deepEqual(await socket.closed, { code: 3012, reason: 'no pong' });
  assert.equal(socket.messages.at(-1), '{}');
});

test('a pong that nobody asked for closes with 3501', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const socket = await bare(t, gateway.url);
  socket.send('{"id":1,"connect":{}}\n{}');
  assert.equal((await socket.closed).code, 3501);
});

test('the library notices a network that has gone silent and comes back with everything', async (t) => {
  const gateway = await startGateway(t, { config: PINGS });
  const relay = await startRelay(t, gateway.port);
  const ann = await connected(t, relay.url, { maxServerPingDelay: 300 });
  const news = await subscribed(ann, 'news:a');
  const silent = next(ann, 'connecting');
  relay.stall();
  await gateway.publish('news:a', 'missed');
  // 2 is the library's own code for a missing ping.
  assert.equal((await silent).code, 2);
  await until('the publication', () => news.publications.length);
  assert.deepEqual(dataOf(news), ['missed']);
});

test('a node that stops sends its clients elsewhere with 3001 and exits well', async (t) => {
  const config = `${CONFIG}\n[drain]\nnotice_ms = 0\ngrace_ms = 200\n`;
  const [first, second] = [await startGateway(t, { config }), await startGateway(t, { config })];
  const relay = await startRelay(t, first.port);
  const clients = [];
  for (let count = 0; count < 5; count += 1) clients.push(await connected(t, relay.url));
  const away = clients.map((made) => next(made, 'connecting'));
  const back = clients.map((made) => next(made, 'connected'));
  relay.target = second.port;
  const exit = first.stop();
  for (const context of await Promise.all(away)) assert.deepEqual(context, { code: 3001, reason: 'shutdown' });
  await Promise.all(back);
  assert.equal(await exit, 0);
  assert.equal((await second.api('info')).nodes[0].num_clients, 5);
});
