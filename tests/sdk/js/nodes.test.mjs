// Tests that several nodes over one Redis behave as one.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  connected, dataOf, inSeconds, next, offsetsOf, startNodes, startRelay, subscribed, token, until,
} from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });

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

const TOLD = `[namespaces.told]
history_size = 100
history_ttl_s = 300
force_recovery = true
presence = true
allow_presence = true
join_leave = true
allow_join_leave = true
allow_subscribe = true
allow_publish = true
allowed_delta_types = ["fossil"]
allow_tags_filter = true
`;

test('the server subscribes a client at another node, which hears what follows and what it missed', async (t) => {
  const [here, there] = await startNodes(t, 2);
  const ann = await connected(t, there.url, as('ann'));
  const heard = [];
  ann.on('publication', ({ channel, data }) => heard.push([channel, data]));
  await here.publish('news:a', 1);
  const { epoch } = await here.api('history', { channel: 'news:a', limit: 0 });
  const made = next(ann, 'subscribed');
  await here.api('subscribe', { user: 'ann', channel: 'news:a', recover_since: { offset: 0, epoch }, data: { n: 1 } });
  const { channel, data } = await made;
  assert.deepEqual([channel, data], ['news:a', { n: 1 }]);
  await here.publish('news:a', 2);
  await until('both', () => heard.length === 2);
  assert.deepEqual(heard, [['news:a', 1], ['news:a', 2]]);
  const ended = next(ann, 'unsubscribed');
  await here.api('unsubscribe', { client: ann.context.client, channel: 'news:a' });
  assert.equal((await ended).channel, 'news:a');
});

test('how long a connection is good for is said by any node', async (t) => {
  const [here, there] = await startNodes(t, 2, '[session]\nexpired_close_delay_ms = 0\n');
  const ann = await connected(t, there.url, as('ann'));
  // The library ignores changes of its expiry: it is closed, and reconnects with its token.
  for (const refresh of [{ expire_at: inSeconds(1) }, { expired: true }]) {
    const [away, back] = [next(ann, 'connecting'), next(ann, 'connected')];
    await here.api('refresh', { user: 'ann', ...refresh });
    assert.equal((await away).code, 3005);
    await back;
  }
});

test('who comes and goes is told at every node', async (t) => {
  const nodes = await startNodes(t, 2, TOLD);
  const heard = [];
  const watching = [];
  for (const [index, node] of nodes.entries()) {
    const made = await subscribed(await connected(t, node.url, as(`watching-${index}`)), 'told:a', { joinLeave: true });
    watching.push(made);
    heard[index] = [];
    for (const kind of ['join', 'leave']) {
      made.on(kind, ({ info: { user } }) => user.startsWith('visitor') && heard[index].push(`${kind} ${user}`));
    }
  }
  for (const [index, node] of nodes.entries()) {
    const visitor = await connected(t, node.url, as(`visitor-${index}`));
    await subscribed(visitor, 'told:a');
    await until('it is seen', async () => (await watching[1 - index].presenceStats()).numClients === 3);
    visitor.disconnect();
    await until('it is gone', async () => (await watching[1 - index].presenceStats()).numClients === 2);
  }
  const expected = ['join visitor-0', 'leave visitor-0', 'join visitor-1', 'leave visitor-1'];
  for (const told of heard) {
    await until('all four', () => told.length >= 4);
    assert.deepEqual(told, expected);
  }
});

test('patches and filters hold at every node, through a change of nodes too', async (t) => {
  const nodes = await startNodes(t, 2, TOLD);
  const relay = await startRelay(t, nodes[0].port);
  const patched = await subscribed(await connected(t, relay.url, as('ann')), 'told:a', { delta: 'fossil' });
  const tagsFilter = { key: 'parity', cmp: 'eq', val: 'odd' };
  const filtered = await subscribed(await connected(t, nodes[1].url, as('bob')), 'told:a', { tagsFilter });
  const text = 'a long text that is the same each time, so that a patch is shorter than the whole of it';
  const publish = (number) => nodes[number % 2].api('publish', {
    channel: 'told:a', data: { text, number }, tags: { parity: number % 2 ? 'odd' : 'even' }, delta: true,
  });
  for (const number of numbers(1, 6)) await publish(number);
  await until('six publications', () => patched.publications.length === 6);
  const back = next(patched, 'subscribed');
  relay.target = nodes[1].port;
  relay.cut();
  for (const number of numbers(7, 9)) await publish(number);
  relay.restore();
  assert.equal((await back).recovered, true);
  for (const number of numbers(10, 12)) await publish(number);
  await until('twelve publications', () => patched.publications.length >= 12);
  assert.deepEqual(dataOf(patched), numbers(1, 12).map((number) => ({ text, number })));
  const { numPublications, numDeltaPayloads } = patched.deltaStats();
  assert.ok(numPublications === 12 && numDeltaPayloads >= 8, `${numDeltaPayloads} of ${numPublications} were patches`);
  await until('the odd ones', () => filtered.publications.length >= 6);
  assert.deepEqual(offsetsOf(filtered), [1, 3, 5, 7, 9, 11]);
});
