// Tests channels that keep state by key: the library reads the state page by page and follows its changes through all faults.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CONFIG, connected, inSeconds, next, startGateway, startNodes, token, until } from './support.mjs';

const MAPS = `
[namespaces.board]
subscription_type = "map"
allow_subscribe = true
allow_subscribe_anonymous = true
[namespaces.board.map]
mode = "recoverable"
key_ttl_s = 300
allow_publish = true
allow_remove = true
[namespaces.scores]
subscription_type = "map"
allow_subscribe = true
allow_subscribe_anonymous = true
map = { mode = "persistent", ordered = true }
[namespaces.brief]
subscription_type = "map"
allow_subscribe = true
allow_subscribe_anonymous = true
map = { mode = "ephemeral", key_ttl_s = 300 }
[namespaces.game]
allow_subscribe = true
allow_subscribe_anonymous = true
map_clients_presence_channel_prefix = "players:"
map_users_presence_channel_prefix = "people:"
[namespaces.players]
subscription_type = "map_clients"
allow_subscribe = true
allow_subscribe_anonymous = true
map = { mode = "ephemeral", key_ttl_s = 60 }
[namespaces.people]
subscription_type = "map_users"
allow_subscribe = true
allow_subscribe_anonymous = true
map = { mode = "ephemeral", key_ttl_s = 10 }
`;
const config = CONFIG + MAPS;
const as = (user) => ({ token: token({ sub: user, exp: inSeconds(600) }) });

// Derives the state from the library's events: `held` is the state by key, `order` the keys in the order of the last sync.
async function following(subscription) {
  subscription.held = {};
  subscription.on('sync', ({ entries }) => {
    subscription.held = {};
    subscription.order = entries.map(({ key }) => key);
    entries.forEach(({ key, data }) => (subscription.held[key] = data));
  });
  subscription.on('update', ({ key, data, removed }) => {
    if (removed) delete subscription.held[key];
    else subscription.held[key] = data;
  });
  const event = next(subscription, 'subscribed');
  subscription.subscribe();
  subscription.context = await event;
  return subscription;
}

const map = (made, channel, options = {}) => following(made.newMapSubscription(channel, options));
const holds = (subscription, truth) =>
  until(`the map is ${JSON.stringify(truth)}`, () => {
    try {
      assert.deepEqual(subscription.held, truth);
      return true;
    } catch {
      return false;
    }
  });
const set = (gateway, channel, key, data, more = {}) => gateway.api('map_publish', { channel, key, data, ...more });

test('a map of many pages is whole, and every change that comes while it is read is in it', async (t) => {
  const gateway = await startGateway(t, { config });
  const truth = {};
  for (let index = 0; index < 250; index += 1) {
    truth[`k${index}`] = index;
    await set(gateway, 'board:a', `k${index}`, index);
  }
  const loading = map(await connected(t, gateway.url), 'board:a', { pageSize: 20 });
  for (const index of [3, 100, 249]) {
    truth[`k${index}`] = 'changed';
    await set(gateway, 'board:a', `k${index}`, 'changed');
  }
  await holds(await loading, truth);
});

test('one subscriber sets and removes keys, and the other has the same map', async (t) => {
  const gateway = await startGateway(t, { config });
  const ann = await map(await connected(t, gateway.url, as('ann')), 'board:a');
  const bob = await map(await connected(t, gateway.url, as('bob')), 'board:a');
  await ann.publish('a', { x: 1 });
  await bob.publish('b', { x: 2 });
  await ann.publish('a', { x: 3 });
  for (const one of [ann, bob]) await holds(one, { a: { x: 3 }, b: { x: 2 } });
  await bob.remove('a');
  for (const one of [ann, bob]) await holds(one, { b: { x: 2 } });
});

test('an ordered map comes from the highest score down, whatever the size of its pages', async (t) => {
  const gateway = await startGateway(t, { config });
  const scores = { eve: 3, dan: 9, cat: -1, bob: 9, ann: 40 };
  for (const [key, score] of Object.entries(scores)) await set(gateway, 'scores:a', key, score, { score });
  const client = await connected(t, gateway.url);
  for (const pageSize of [1, 2, 100]) {
    const subscription = await map(client, 'scores:a', { pageSize });
    assert.deepEqual(subscription.order, ['ann', 'dan', 'bob', 'eve', 'cat']);
    subscription.unsubscribe();
    client.removeSubscription(subscription);
  }
});

test('who comes back recovers a map with a stream, and reads one without anew', async (t) => {
  const gateway = await startGateway(t, { config });
  const client = await connected(t, gateway.url);
  const [board, brief] = [await map(client, 'board:a'), await map(client, 'brief:a')];
  await set(gateway, 'board:a', 'a', 1);
  await set(gateway, 'brief:a', 'a', 1);
  for (const one of [board, brief]) await holds(one, { a: 1 });
  const gone = next(client, 'disconnected');
  client.disconnect();
  await gone;
  await set(gateway, 'board:a', 'b', 2);
  await set(gateway, 'brief:a', 'b', 2);
  client.connect();
  for (const one of [board, brief]) await holds(one, { a: 1, b: 2 });
});

test('who is in a channel is shown by client and by user, and only the last client of a user takes the user along', async (t) => {
  const gateway = await startGateway(t, { config });
  const watcher = await connected(t, gateway.url);
  const players = await following(watcher.newMapClientsSubscription('players:game:1'));
  const people = await following(watcher.newMapUsersSubscription('people:game:1'));
  const [one, two] = [await connected(t, gateway.url, as('ann')), await connected(t, gateway.url, as('ann'))];
  const joins = [one, two].map((made) => {
    const subscription = made.newSubscription('game:1');
    const event = next(subscription, 'subscribed');
    subscription.subscribe();
    return event;
  });
  await Promise.all(joins);
  const ids = [one, two].map(({ context }) => context.client).sort();
  await until('both clients are shown', () => Object.keys(players.held).sort().join() === ids.join());
  await until('their user is shown once', () => Object.keys(people.held).join() === 'ann');
  one.disconnect();
  await until('one client is gone', () => Object.keys(players.held).join() === two.context.client);
  assert.deepEqual(Object.keys(people.held), ['ann']);
  two.disconnect();
  await until('the other, too', () => Object.keys(players.held).length === 0);
  await until('and the user, some seconds later', () => Object.keys(people.held).length === 0, 30_000);
});

test('a map is read anew when it was cleared and when Redis has lost its data, on every node', async (t) => {
  const nodes = await startNodes(t, 2, MAPS);
  const followers = [];
  for (const channel of ['brief:a', 'board:a']) {
    for (const node of nodes) followers.push(await map(await connected(t, node.url), channel));
    await set(nodes[0], channel, 'a', 1);
  }
  for (const one of followers) await holds(one, { a: 1 });
  for (const channel of ['brief:a', 'board:a']) await nodes[1].api('map_clear', { channel });
  for (const one of followers) await holds(one, {});
  for (const channel of ['brief:a', 'board:a']) await set(nodes[0], channel, 'b', 2);
  for (const one of followers) await holds(one, { b: 2 });
  assert.equal(await nodes.redis.ask('FLUSHALL'), '+OK');
  for (const one of followers) await holds(one, {});
});
