// Tests that nodes of two releases over one Redis work together.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, connected, dataOf, inSeconds, next, offsetsOf, startGateway, startRedis, startRelay, subscribed, token, until,
} from '../sdk/js/support.mjs';

const EARLIER = process.env.TIDEGATE_EARLIER;
if (!EARLIER) throw new Error('TIDEGATE_EARLIER names no program: tests/rolling/run sets it');
const DRAIN = '[drain]\nnotice_ms = 0\ngrace_ms = 200\n';

// Settings of namespaces that both releases support.
const TOLD = 'history_size = 100\nhistory_ttl_s = 300\nforce_recovery = true\nallow_subscribe = true\n';
const LONG = TOLD.replace('100', '100000');
// The earlier release logs this about events that it does not know: see docs/operations.md.
const UNREAD = ['publications from Redis cannot be read'];

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(600) }) });

// Defines a test with a cluster: `start(name)` starts a node of this release, `start(name, { earlier: true })` one of the earlier.
// `more` is further TOML for that node. At the end, no log may contain unexpected warnings.
function scenario(name, run) {
  test(name, async (t) => {
    const { start, nodes } = await cluster(t);
    await run(t, start);
    for (const node of nodes) {
      const complaints = node.log.filter((line) => /"level":"(WARN|ERROR)"/.test(line));
      assert.deepEqual(complaints.filter((line) => !node.expects.some((known) => line.includes(known))), []);
    }
  });
}

async function cluster(t) {
  const redis = await startRedis(t);
  const nodes = [];
  const start = async (name, { earlier = false, more = '', expects = [] } = {}) => {
    const shared = `${CONFIG.replace('test-node', name)}\n[broker]\nkind = "redis"\n[redis]\nurl = "${redis.url}"\n${DRAIN}`;
    const node = await startGateway(t, { config: shared + more, ...(earlier && { binary: EARLIER }) });
    nodes.push(node);
    node.expects = expects;
    await until(`${name} is ready`, () => node.ready());
    return node;
  };
  return { start, nodes };
}

// Starts one node of each release: `[earlier, later]`.
async function both(start, { more = '' } = {}) {
  const nodes = [await start('earlier', { earlier: true }), await start('later', { more })];
  for (const node of nodes) {
    await until('both know each other', async () => (await node.api('info')).nodes.length === 2);
  }
  return nodes;
}

// Connects a client to each of the nodes, and counts its events.
async function clientsAt(t, nodes, channel, options = {}) {
  const made = [];
  for (const [index, node] of nodes.entries()) {
    const client = await connected(t, node.url, as(`user-${index}`));
    const subscription = await subscribed(client, channel, options);
    made.push(Object.assign(subscription, watched(client, subscription)));
  }
  return made;
}

function watched(client, subscription) {
  const seen = { client, again: 0, lost: 0, recovered: [] };
  client.on('connecting', () => (subscription.lost += 1));
  subscription.on('subscribed', ({ recovered }) => {
    subscription.again += 1;
    subscription.recovered.push(recovered);
  });
  return seen;
}

async function metric(node, name) {
  const lines = (await node.metrics()).split('\n').filter((line) => line.startsWith(name));
  assert.ok(lines.length > 0, `there is no metric ${name}`);
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

for (const channel of ['news:a', 'plain:a']) {
  scenario(`what is published through either release arrives at clients of both, in ${channel}`, async (t, start) => {
    const nodes = await both(start);
    const subscriptions = await clientsAt(t, nodes, channel);
    const tags = { kind: 'x' };
    for (const [index, node] of nodes.entries()) {
      await node.api('publish', { channel, data: { from: index }, tags });
      await node.api('broadcast', { channels: [channel], data: [index, 1.5] });
      await node.api('publish', { channel, b64data: Buffer.from('some text').toString('base64') });
      // A delta is requested where none are sent, so its record must be readable for the earlier release.
      await node.api('publish', { channel, data: 'no patch', delta: true });
      await subscriptions[index].publish({ by: index });
    }
    const each = (index) => [{ from: index }, [index, 1.5], 'some text', 'no patch', { by: index }];
    for (const subscription of subscriptions) {
      await until('ten publications', () => subscription.publications.length >= 10);
      assert.deepEqual(dataOf(subscription), [...each(0), ...each(1)]);
      if (channel === 'news:a') assert.deepEqual(offsetsOf(subscription), numbers(1, 10));
      const [first, , , , own, , , , , other] = subscription.publications;
      assert.deepEqual(first.tags, tags);
      assert.deepEqual([own.info.user, other.info.user], ['user-0', 'user-1']);
    }
  });
}

scenario('what either release keeps the other reads, in one stream', async (t, start) => {
  const nodes = await both(start);
  const [first, second] = await clientsAt(t, nodes, 'news:a');
  for (const number of numbers(1, 6)) await nodes[number % 2].publish('news:a', number);
  for (const subscription of [first, second]) {
    const { publications, offset } = await subscription.history({ limit: 10 });
    assert.deepEqual([publications.map(({ data }) => data), offset], [numbers(1, 6), 6]);
  }
  const pages = [];
  for (const node of nodes) pages.push(await node.api('history', { channel: 'news:a', limit: 2, reverse: true }));
  assert.deepEqual(pages[0], pages[1]);
  assert.deepEqual(pages[0].publications.map(({ offset }) => offset), [6, 5]);
  const { epoch } = pages[0];
  await nodes[0].api('history_remove', { channel: 'news:a' });
  // The stream continues or starts over, but in the same way for both nodes.
  const after = [];
  for (const node of nodes) after.push(await node.api('publish', { channel: 'news:a', data: 7 }));
  assert.equal(after[0].epoch, after[1].epoch);
  assert.deepEqual([after[0].epoch === epoch, after[1].offset - after[0].offset], [after[0].offset === 7, 1]);
});

scenario('a publication with an idempotency key is made once, whichever release is asked again', async (t, start) => {
  const nodes = await both(start);
  const [subscription] = await clientsAt(t, nodes, 'news:a');
  for (const [first, second] of [nodes, [...nodes].reverse()]) {
    const publication = { channel: 'news:a', data: 1, idempotency_key: first.url };
    assert.deepEqual(await first.api('publish', publication), await second.api('publish', publication));
  }
  await nodes[1].publish('news:a', 'last');
  await until('the last', () => dataOf(subscription).at(-1) === 'last');
  assert.deepEqual(dataOf(subscription), [1, 1, 'last']);
});

scenario('a client that moves to the other release and back recovers all it missed', async (t, start) => {
  const nodes = await both(start);
  const relay = await startRelay(t, nodes[0].port);
  const news = await subscribed(await connected(t, relay.url, as('ann')), 'news:a');
  const { epoch } = await nodes[1].api('history', { channel: 'news:a', limit: 0 });
  assert.equal(news.context.streamPosition.epoch, epoch);
  let published = 0;
  const publish = async (count) => {
    for (; count > 0; count -= 1) await nodes[count % 2].publish('news:a', (published += 1));
  };
  for (const turn of [1, 0, 1, 0]) {
    await publish(4);
    await until('what was published', () => news.publications.length === published);
    const back = next(news, 'subscribed');
    relay.target = nodes[turn].port;
    relay.cut();
    await publish(4);
    relay.restore();
    const context = await back;
    assert.deepEqual([context.wasRecovering, context.recovered], [true, true]);
    // The reply to a recovery has the epoch of the client's position.
    assert.equal(context.streamPosition.epoch, epoch);
  }
  await publish(2);
  await until('the last', () => news.publications.length >= published);
  assert.deepEqual(dataOf(news), numbers(1, published));
  assert.deepEqual(offsetsOf(news), numbers(1, published));
});

scenario('who is there is the same at both, and who leaves is gone from both', async (t, start) => {
  const nodes = await both(start);
  const [first, second] = await clientsAt(t, nodes, 'news:a');
  const usersAt = async (subscription) =>
    Object.values((await subscription.presence()).clients).map(({ user }) => user).sort().join();
  for (const subscription of [first, second]) {
    await until('both are seen', async () => (await usersAt(subscription)) === 'user-0,user-1');
    assert.deepEqual(await subscription.presenceStats(), { numClients: 2, numUsers: 2 });
  }
  second.client.disconnect();
  await until('the one at the later release is gone', async () => (await usersAt(first)) === 'user-0');
  const third = await subscribed(await connected(t, nodes[1].url, as('user-2')), 'news:a');
  first.client.disconnect();
  await until('the one at the earlier release is gone', async () => (await usersAt(third)) === 'user-2');
});

scenario('a command to a node of either release reaches clients of both', async (t, start) => {
  const nodes = await both(start);
  for (const node of nodes) {
    for (const home of nodes) {
      const [ann, spared] = [await connected(t, home.url, as('ann')), await connected(t, home.url, as('ann'))];
      const news = await subscribed(ann, 'news:a');
      const ended = next(news, 'unsubscribed');
      await node.api('unsubscribe', { user: 'ann', channel: 'news:a' });
      assert.equal((await ended).code, 2000);
      const gone = next(ann, 'disconnected');
      const disconnect = { code: 4567, reason: 'upgrade' };
      await node.api('disconnect', { user: 'ann', whitelist: [spared.context.client], disconnect });
      assert.deepEqual(await gone, { code: 4567, reason: 'upgrade' });
      assert.equal(spared.state, 'connected');
      const alsoGone = next(spared, 'disconnected');
      await node.api('disconnect', { user: 'ann', client: spared.context.client });
      assert.equal((await alsoGone).code, 3503);
    }
  }
});

scenario('both releases list both, and what only one can be asked is told', async (t, start) => {
  const nodes = await both(start);
  const [earlier, later] = nodes;
  await clientsAt(t, nodes, 'news:a');
  const counts = async (node) =>
    Object.fromEntries((await node.api('info')).nodes.map(({ name, num_clients: clients }) => [name, clients]));
  for (const node of nodes) {
    await until('one client each', async () => JSON.stringify(await counts(node)) === '{"earlier":1,"later":1}' ||
      JSON.stringify(await counts(node)) === '{"later":1,"earlier":1}');
  }
  const channels = await later.api('channels');
  assert.deepEqual(channels, { channels: { 'news:a': { num_clients: 1 } }, missing_nodes: ['earlier'] });
  const { connections, missing_nodes: missing } = await later.api('connections');
  assert.deepEqual([Object.values(connections).map(({ user }) => user), missing], [['user-1'], ['earlier']]);
  // The earlier release lacks this command, and the error names the node that cannot carry it out.
  await assert.rejects(later.api('subscribe', { user: 'user-0', channel: 'news:b' }), /node earlier cannot do it/);
  assert.equal(await metric(earlier, 'tidegate_drops_total'), 0);
});

scenario('one connection a user holds over both, where the later release is told to see to it', async (t, start) => {
  const [earlier, later] = await both(start, { more: '[session]\nsingle_connection = true\n' });
  const first = await connected(t, earlier.url, as('ann'));
  const gone = next(first, 'disconnected');
  await connected(t, later.url, as('ann'));
  await gone;
});

scenario('joins and leaves of the later release do no harm to clients of the earlier one', async (t, start) => {
  const more = '[namespaces.told]\njoin_leave = true\nforce_push_join_leave = true\n' + TOLD;
  const earlier = await start('earlier', { earlier: true, more: `[namespaces.told]\n${TOLD}`, expects: UNREAD });
  const later = await start('later', { more });
  const nodes = [earlier, later];
  const [first, second] = await clientsAt(t, nodes, 'told:a');
  const heard = { join: [], leave: [] };
  for (const kind of Object.keys(heard)) {
    // The subscriber's own join may still be on its way.
    second.on(kind, ({ info: { user } }) => user.startsWith('visitor') && heard[kind].push(user));
  }
  const visitors = 8;
  for (const number of numbers(1, visitors)) {
    const visitor = await connected(t, later.url, as(`visitor-${number}`));
    await subscribed(visitor, 'told:a');
    await nodes[number % 2].publish('told:a', number);
    visitor.disconnect();
  }
  await until('all have come and gone', () => heard.leave.length === visitors);
  assert.deepEqual(heard.join, numbers(1, visitors).map((number) => `visitor-${number}`));
  for (const subscription of [first, second]) {
    await until('all publications', () => subscription.publications.length >= visitors);
    assert.deepEqual(offsetsOf(subscription), numbers(1, visitors));
    assert.deepEqual([subscription.again, subscription.lost], [0, 0], 'nobody had to subscribe or connect again');
  }
  for (const node of nodes) {
    for (const name of ['tidegate_gaps_total', 'tidegate_insufficient_total', 'tidegate_drops_total']) {
      assert.equal(await metric(node, name), 0, name);
    }
  }
  assert.ok(earlier.log.some((line) => line.includes(UNREAD[0])), 'the log says what the earlier release cannot read');
});

scenario('commands that come apart and streams of the later release stay among its own', async (t, start) => {
  const earlier = await start('earlier', { earlier: true });
  const [one, other] = [await start('one'), await start('other')];
  const stream = await connected(t, [{ transport: 'http_stream', endpoint: one.http('/connection/http_stream') }], {
    ...as('ann'), emulationEndpoint: other.http('/emulation'),
  });
  const news = await subscribed(stream, 'news:a');
  await earlier.publish('news:a', 1);
  await news.publish(2);
  await until('two publications', () => news.publications.length === 2);
  assert.deepEqual(dataOf(news), [1, 2]);
  const gone = next(stream, 'disconnected');
  await earlier.api('disconnect', { user: 'ann' });
  assert.equal((await gone).code, 3503);
});

for (const back of [false, true]) {
  const way = back ? 'from this release back to the earlier one' : 'from the earlier release to this one';
  scenario(`a rolling restart of three nodes ${way} loses nothing of what is published meanwhile`, async (t, start) => {
      const names = ['one', 'two', 'three'];
    const more = '[namespaces.long]\n' + LONG;
    let nodes = [];
    for (const name of names) nodes.push(await start(name, { earlier: !back, more }));
    const readers = [];
    for (const index of numbers(0, 5)) {
      const relay = await startRelay(t, nodes[index % 3].port);
      const client = await connected(t, relay.url, as(`user-${index}`));
      const subscription = await subscribed(client, 'long:a');
      readers.push({ relay, subscription: Object.assign(subscription, watched(client, subscription)), at: index % 3 });
    }
    // The publisher tries another node when one refuses, as behind a load balancer.
    let [published, running] = [0, true];
    const publishing = (async () => {
      while (running) {
        published += 1;
        const publication = { channel: 'long:a', data: published, idempotency_key: `publication-${published}` };
        await until('it is published', async () => {
          const node = nodes[Math.floor(Math.random() * nodes.length)];
          return node.api('publish', publication).then(() => true, () => false);
        });
      }
    })();
    const grow = async () => {
      const enough = published + 30;
      await until('some are published', () => published >= enough);
    };
    for (const [index, name] of names.entries()) {
      await grow();
      // The balancer stops using the node before the node is stopped.
      const leaving = nodes[index];
      const away = (index + 1) % 3;
      for (const reader of readers.filter(({ at }) => at === index)) {
        reader.relay.target = nodes[away].port;
        reader.at = away;
      }
      assert.equal(await leaving.stop(), 0);
      await grow();
      const successor = await start(name, { earlier: back, more });
      nodes = nodes.map((node) => (node === leaving ? successor : node));
    }
    await grow();
    running = false;
    await publishing;
    for (const { subscription } of readers) {
      await until('the last one', () => subscription.publications.length >= published);
      assert.deepEqual(dataOf(subscription), numbers(1, published));
      assert.deepEqual(offsetsOf(subscription), numbers(1, published));
      assert.ok(subscription.lost <= 3, `${subscription.lost} connections were lost in three restarts`);
      assert.equal(subscription.again, subscription.lost);
      assert.ok(subscription.recovered.every(Boolean), 'everybody recovered');
    }
    for (const node of nodes) assert.equal(await metric(node, 'tidegate_insufficient_total'), 0);
  });
}
