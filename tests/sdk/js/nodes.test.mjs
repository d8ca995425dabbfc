// Several nodes over one Redis are one gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, connected, dataOf, inSeconds, next, startGateway, startRedis, startRelay, subscribed, token, until,
} from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });

async function startNodes(t, count) {
  const redis = await startRedis(t);
  const config = `${CONFIG}\n[broker]\nkind = "redis"\n[redis]\nurl = "${redis.url}"\n`;
  return Promise.all(
    numbers(1, count).map((number) => startGateway(t, { config: config.replace('test-node', `node-${number}`) })),
  );
}

test('what is published through one node arrives at every other', async (t) => {
  const nodes = await startNodes(t, 3);
  const subscriptions = [];
  for (const node of nodes) {
    const made = await connected(t, node.url, as('ann'));
    subscriptions.push(await subscribed(made, 'news:a'));
  }
  for (const [index, node] of nodes.entries()) await node.publish('news:a', index + 1);
  await subscriptions[1].publish(4);
  for (const subscription of subscriptions) {
    await until('four publications', () => subscription.publications.length === 4);
    assert.deepEqual(dataOf(subscription), [1, 2, 3, 4]);
    assert.deepEqual(subscription.publications.map(({ offset }) => offset), [1, 2, 3, 4]);
  }
});

test('history, presence and the list of nodes are the same at every node', async (t) => {
  const nodes = await startNodes(t, 2);
  const [ann, bob] = [await connected(t, nodes[0].url, as('ann')), await connected(t, nodes[1].url, as('bob'))];
  const [hers, his] = [await subscribed(ann, 'news:a'), await subscribed(bob, 'news:a')];
  await nodes[0].publish('news:a', 1);
  const { publications, offset } = await his.history({ limit: 10 });
  assert.deepEqual([publications.map(({ data }) => data), offset], [[1], 1]);
  await until('both are seen', async () => (await hers.presenceStats()).numClients === 2);
  const users = Object.values((await his.presence()).clients).map(({ user }) => user);
  assert.deepEqual(users.sort(), ['ann', 'bob']);
  const names = async () => (await nodes[1].api('info')).nodes.map(({ name }) => name).sort().join();
  await until('both nodes are known', async () => (await names()) === 'node-1,node-2');
});

test('a command to one node reaches clients at another', async (t) => {
  const nodes = await startNodes(t, 2);
  const ann = await connected(t, nodes[1].url, as('ann'));
  const news = await subscribed(ann, 'news:a');
  const ended = next(news, 'unsubscribed');
  await nodes[0].api('unsubscribe', { user: 'ann', channel: 'news:a' });
  assert.equal((await ended).code, 2000);
  const gone = next(ann, 'disconnected');
  await nodes[0].api('disconnect', { user: 'ann' });
  assert.equal((await gone).code, 3503);
});

test('when a node is killed its clients recover at another without a gap', async (t) => {
  const nodes = await startNodes(t, 2);
  const relay = await startRelay(t, nodes[0].port);
  const ann = await connected(t, relay.url, as('ann'));
  const news = await subscribed(ann, 'news:a');
  for (const number of numbers(1, 4)) await nodes[1].publish('news:a', number);
  await until('four publications', () => news.publications.length === 4);

  const back = next(news, 'subscribed');
  relay.target = nodes[1].port;
  await nodes[0].kill();
  for (const number of numbers(5, 8)) await nodes[1].publish('news:a', number);
  const context = await back;
  assert.deepEqual([context.wasRecovering, context.recovered], [true, true]);
  await nodes[1].publish('news:a', 9);
  await until('nine publications', () => news.publications.length >= 9);
  assert.deepEqual(dataOf(news), numbers(1, 9));
});
