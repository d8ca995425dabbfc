// Tests channels: subscribing, publishing, history and presence, and every refusal.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, SECRET, bare, codeOf, connected, dataOf, inSeconds, next, offsetsOf, refused, repliesOf, startGateway,
  subscribed, token, until,
} from './support.mjs';

const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });

test('what one client publishes reaches all subscribers, and says who it was', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [ann, bob] = [await connected(t, gateway.url, as('ann')), await connected(t, gateway.url, as('bob'))];
  const [hers, his] = [await subscribed(ann, 'news:a'), await subscribed(bob, 'news:a')];
  const data = { text: 'line\nbreak, "quotes" and ü', list: [1, 2.5, null, {}] };
  await hers.publish(data);
  for (const subscription of [hers, his]) {
    await until('the publication', () => subscription.publications.length);
    const [publication] = subscription.publications;
    assert.deepEqual(publication.data, data);
    assert.equal(publication.offset, 1);
    assert.equal(publication.info.user, 'ann');
    assert.equal(publication.info.client, ann.context.client);
  }
});

test('a publication of the server reaches subscribers with its tags and without a sender', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const news = await subscribed(await connected(t, gateway.url), 'news:a');
  await gateway.api('publish', { channel: 'news:a', data: [7], tags: { exchange: 'NASDAQ' } });
  await until('the publication', () => news.publications.length);
  const [{ data, tags, info }] = news.publications;
  assert.deepEqual([data, tags, info], [[7], { exchange: 'NASDAQ' }, undefined]);
});

test('publications arrive in the order they were made', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const news = await subscribed(ann, 'news:a');
  const count = 200;
  await Promise.all(Array.from({ length: count }, (_, index) => news.publish(index)));
  await until('all of them', () => news.publications.length === count);
  assert.deepEqual(dataOf(news), Array.from({ length: count }, (_, index) => index));
  assert.deepEqual(offsetsOf(news), Array.from({ length: count }, (_, index) => index + 1));
});

test('after unsubscribing nothing arrives, until the next subscribe', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url);
  const [left, kept] = [await subscribed(ann, 'plain:left'), await subscribed(ann, 'plain:kept')];
  left.unsubscribe();
  await until('the gateway knows', async () => (await gateway.api('info')).nodes[0].num_subs === 1);
  await gateway.publish('plain:left', 1);
  await gateway.publish('plain:kept', 2);
  await until('the other publication', () => kept.publications.length);
  assert.deepEqual(dataOf(left), []);
  const again = next(left, 'subscribed');
  left.subscribe();
  await again;
  await gateway.publish('plain:left', 3);
  await until('a publication', () => left.publications.length);
  assert.deepEqual(dataOf(left), [3]);
});

test('the library sees each refusal of a subscription with its code', async (t) => {
  const gateway = await startGateway(t, { config: `${CONFIG}\n[session]\nchannels_max = 2\n` });
  const ann = await connected(t, gateway.url, as('ann'));
  assert.equal(await refused(ann, 'nowhere:a'), 102, 'unknown namespace');
  assert.equal(await refused(ann, 'shut:a'), 103, 'permission denied');
  assert.equal(await refused(ann, '$news:a'), 103, 'private channel without a token');
  assert.equal(await refused(ann, `news:${'a'.repeat(255)}`), 107, 'name too long');
  await subscribed(ann, 'news:a');
  await subscribed(ann, 'news:b');
  assert.equal(await refused(ann, 'news:c'), 106, 'too many channels');
});

test('a second subscribe to the same channel is error 105', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const socket = await bare(t, gateway.url);
  const subscribe = (id) => `{"id":${id},"subscribe":{"channel":"news:a"}}`;
  socket.send(`{"id":1,"connect":{}}\n${subscribe(2)}\n${subscribe(3)}`);
  await until('three replies', () => repliesOf(socket).length === 3);
  const [, second, third] = repliesOf(socket);
  assert.ok(second.subscribe);
  assert.deepEqual(third, { id: 3, error: { code: 105, message: 'already subscribed' } });
});

test('a subscription token opens a private channel to its user, and shows its info', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const claims = { sub: 'ann', channel: '$news:a', exp: inSeconds(60), info: { role: 'editor' } };
  const news = await subscribed(ann, '$news:a', { getToken: async () => token(claims) });
  await news.publish('hello');
  await until('the publication', () => news.publications.length);
  assert.deepEqual(news.publications[0].info.chanInfo, { role: 'editor' });
});

test('an expired subscription token makes the library fetch another', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const made = (seconds) => token({ sub: 'ann', channel: '$news:a', exp: inSeconds(seconds) });
  let fetched = 0;
  await subscribed(ann, '$news:a', {
    token: made(-10),
    getToken: async () => {
      fetched += 1;
      return made(60);
    },
  });
  assert.equal(fetched, 1);
});

test('a subscription whose token is refreshed in time outlives the token', async (t) => {
  const gateway = await startGateway(t, { config: `${CONFIG}\n[session]\nexpired_close_delay_ms = 300\n` });
  const ann = await connected(t, gateway.url, as('ann'));
  let fetched = 0;
  const news = await subscribed(ann, '$news:a', {
    getToken: async () => {
      fetched += 1;
      return token({ sub: 'ann', channel: '$news:a', exp: inSeconds(2) });
    },
  });
  const left = [];
  news.on('subscribing', (context) => left.push(context));
  news.on('unsubscribed', (context) => left.push(context));
  await until('a third token', () => fetched >= 3);
  assert.deepEqual(left, []);
});

test('a subscription token for another channel or another user does not open this one', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const cases = {
    'another channel': token({ sub: 'ann', channel: '$news:b' }),
    'another user': token({ sub: 'bob', channel: '$news:a' }),
  };
  for (const [what, wrong] of Object.entries(cases)) {
    const ann = await connected(t, gateway.url, as('ann'));
    const event = next(ann, 'disconnected');
    ann.newSubscription('$news:a', { token: wrong }).subscribe();
    assert.equal((await event).code, 3500, what);
  }
  const ann = await connected(t, gateway.url, as('ann'));
  const forged = token({ sub: 'ann', channel: '$news:a' }, { secret: `${SECRET}!` });
  assert.equal(await refused(ann, '$news:a', { token: forged }), 103, 'a wrong signature');
});

test('publishing is refused to those who may not', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const anonymous = await connected(t, gateway.url);
  await subscribed(anonymous, 'news:a');
  assert.equal(await codeOf(anonymous.publish('news:a', 1)), 103);
  assert.equal(await codeOf(anonymous.publish('nowhere:a', 1)), 102);
  await anonymous.publish('plain:a', 1);
});

test('history answers a part of the stream, forwards and backwards', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const news = await subscribed(await connected(t, gateway.url, as('ann')), 'news:a');
  for (let index = 1; index <= 12; index += 1) await gateway.publish('news:a', index);

  const top = await news.history();
  assert.deepEqual([top.publications, top.offset], [[], 12], 'the position alone');
  const { epoch } = top;
  assert.ok(epoch);
  const offsets = async (options) => (await news.history(options)).publications.map(({ offset }) => offset);
  assert.deepEqual(await offsets({ limit: -1 }), [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 'all that is kept');
  assert.deepEqual(await offsets({ limit: 3 }), [3, 4, 5]);
  assert.deepEqual(await offsets({ limit: 3, reverse: true }), [12, 11, 10]);
  assert.deepEqual(await offsets({ limit: 2, since: { offset: 5, epoch } }), [6, 7]);
  assert.deepEqual(await offsets({ limit: 2, since: { offset: 5, epoch }, reverse: true }), [4, 3]);
  assert.equal(await codeOf(news.history({ limit: 1, since: { offset: 5, epoch: 'another' } })), 112);
});

test('presence shows who is there, and the change when they leave', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [ann, bob] = [await connected(t, gateway.url, as('ann')), await connected(t, gateway.url, as('ann'))];
  const [hers] = [await subscribed(ann, 'news:a'), await subscribed(bob, 'news:a')];
  const { clients } = await hers.presence();
  assert.deepEqual(Object.keys(clients).sort(), [ann.context.client, bob.context.client].sort());
  assert.deepEqual(await hers.presenceStats(), { numClients: 2, numUsers: 1 });
  bob.disconnect();
  await until('one is left', async () => (await hers.presenceStats()).numClients === 1);
});

test('what a channel does not offer is error 108', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const plain = await subscribed(await connected(t, gateway.url, as('ann')), 'plain:a');
  assert.equal(await codeOf(plain.history({ limit: 1 })), 108);
  assert.equal(await codeOf(plain.presence()), 108);
  assert.equal(await codeOf(plain.presenceStats()), 108);
});

test('there is nothing behind the gateway to call', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url);
  assert.equal(await codeOf(ann.rpc('anything', {})), 108);
});

test('a batch of commands travels in one message and each is answered', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway.url, as('ann'));
  const news = await subscribed(ann, 'news:a');
  const frames = [];
  const { send } = ann._transport;
  ann._transport.send = (data) => {
    frames.push(data);
    return send.call(ann._transport, data);
  };
  ann.startBatching();
  const answers = [1, 2, 3].map((value) => news.publish(value));
  const stats = news.presenceStats();
  ann.stopBatching();
  await Promise.all(answers);
  assert.equal((await stats).numClients, 1);
  assert.deepEqual(frames.map((frame) => frame.split('\n').length), [4]);
  await until('the publications', () => news.publications.length === 3);
  assert.deepEqual(dataOf(news), [1, 2, 3]);
});
