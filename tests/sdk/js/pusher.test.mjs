// Tests pusher-js, the official library, with the official server library: everything that they do with each other.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { test } from 'node:test';

import Pusher from 'pusher-js';
import PusherServer from 'pusher';
import Echo from 'laravel-echo';

import { WebSocket, startGateway, until } from './support.mjs';

const CONFIG = readFileSync(new URL('../../support/pusher.toml', import.meta.url), 'utf8');
const MASTER_KEY = Buffer.alloc(32, 7).toString('base64');

function serverOf(gateway, app = { appId: '1', key: 'app-key', secret: 'app-secret' }) {
  return new PusherServer({
    ...app,
    host: '127.0.0.1',
    port: String(gateway.port),
    useTLS: false,
    encryptionMasterKeyBase64: MASTER_KEY,
  });
}

// Creates a client whose application signs all its requests, as this user.
function clientOf(t, gateway, user = {}, key = 'app-key', app = undefined) {
  const server = serverOf(gateway, app);
  const answer = (make) => (params, callback) => {
    try {
      callback(null, make(params));
    } catch (error) {
      callback(error, null);
    }
  };
  const member = user.id && { user_id: user.id, user_info: { name: user.id } };
  const client = new Pusher(key, {
    wsHost: '127.0.0.1',
    wsPort: gateway.port,
    forceTLS: false,
    enabledTransports: ['ws'],
    enableStats: false,
    cluster: '',
    channelAuthorization: {
      customHandler: answer(({ socketId, channelName }) =>
        server.authorizeChannel(socketId, channelName, channelName.startsWith('presence-') ? member : undefined)),
    },
    userAuthentication: { customHandler: answer(({ socketId }) => server.authenticateUser(socketId, user)) },
  });
  client.errors = [];
  client.connection.bind('error', (error) => client.errors.push(error.error?.data ?? error.data));
  t.after(() => client.disconnect());
  return client;
}

async function connected(t, gateway, user) {
  const client = clientOf(t, gateway, user);
  await until('connected', () => client.connection.state === 'connected');
  return client;
}

async function subscribed(client, name) {
  const channel = client.subscribe(name);
  channel.heard = [];
  channel.bind_global((event, data) => channel.heard.push([event, data]));
  await until(`subscribed to ${name}`, () => channel.subscribed);
  return channel;
}

const eventsOf = (channel) => channel.heard.filter(([event]) => !event.startsWith('pusher:'));
const heard = (channel, count) => until(`${count} events`, () => eventsOf(channel).length >= count);

test('an event reaches its channels, and not the socket that it excepts', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [one, other] = [await connected(t, gateway), await connected(t, gateway)];
  const [news, others] = [await subscribed(one, 'news'), await subscribed(other, 'news')];
  const server = serverOf(gateway);
  await server.trigger('news', 'price', { value: 1.5 }, { socket_id: one.connection.socket_id });
  await server.trigger(['news', 'other'], 'note', 'a text, and no JSON');
  await gateway.publish('shop:news', { from: 'the API' });
  await heard(news, 2);
  await heard(others, 3);
  assert.deepEqual(eventsOf(news), [['note', 'a text, and no JSON'], ['message', { from: 'the API' }]]);
  assert.deepEqual(eventsOf(others)[0], ['price', { value: 1.5 }]);
});

test('a batch is several events, and each can be told how many have it', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const client = await connected(t, gateway);
  const [a, b] = [await subscribed(client, 'a'), await subscribed(client, 'b')];
  const server = serverOf(gateway);
  await server.triggerBatch([
    { channel: 'a', name: 'one', data: { n: 1 } },
    { channel: 'b', name: 'two', data: { n: 2 } },
  ]);
  await heard(a, 1);
  await heard(b, 1);
  assert.deepEqual([eventsOf(a), eventsOf(b)], [[['one', { n: 1 }]], [['two', { n: 2 }]]]);
  const answer = await server.trigger('a', 'three', {}, { info: 'subscription_count' });
  assert.deepEqual(await answer.json(), { channels: { a: { subscription_count: 1 } } });
});

test('clients of a private channel hear each other, as often as they may', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [one, other] = [await connected(t, gateway), await connected(t, gateway)];
  const [mine, theirs] = [await subscribed(one, 'private-map'), await subscribed(other, 'private-map')];
  // More than ten a second: each event beyond the limit is refused with an error, however slow the machine is.
  for (let n = 0; n < 40; n += 1) mine.trigger('client-moved', { n });
  await until('all are heard or refused', () => eventsOf(theirs).length + one.errors.length === 40);
  const numbers = eventsOf(theirs).map(([, data]) => data.n);
  assert.deepEqual(numbers.slice(0, 10), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.ok(numbers.length < 40 && one.errors.every((error) => error.code === 4301));
  assert.deepEqual(eventsOf(mine), []);
  assert.equal(one.connection.state, 'connected');
});

test('a channel that the application does not sign for stays shut', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const client = await connected(t, gateway);
  client.config.channelAuthorizer = (params, callback) => callback(null, { auth: 'app-key:0000' });
  const channel = client.subscribe('private-map');
  const errors = [];
  channel.bind('pusher:subscription_error', (error) => errors.push(error));
  await until('an error', () => errors.length);
  assert.deepEqual([errors[0].type, errors[0].status], ['AuthError', 401]);
  assert.equal(client.connection.state, 'connected');
});

test('a presence channel knows its members, however many sockets each has', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway, { id: 'ann' });
  const room = await subscribed(ann, 'presence-room');
  assert.equal(room.members.me.id, 'ann');
  const [bob, again] = [await connected(t, gateway, { id: 'bob' }), await connected(t, gateway, { id: 'bob' })];
  const [bobs] = [await subscribed(bob, 'presence-room'), await subscribed(again, 'presence-room')];
  assert.deepEqual([bobs.members.count, bobs.members.get('ann').info], [2, { name: 'ann' }]);
  await until('bob', () => room.members.count === 2);
  bob.disconnect();
  again.channel('presence-room').trigger('client-hi', {});
  await heard(room, 1);
  assert.equal(room.members.count, 2);
  again.unsubscribe('presence-room');
  await until('no bob', () => room.members.count === 1);
  const names = room.heard.map(([event]) => event);
  assert.deepEqual(names.filter((event) => event.startsWith('pusher:member')), ['pusher:member_added', 'pusher:member_removed']);
  const server = serverOf(gateway);
  const users = await (await server.get({ path: '/channels/presence-room/users' })).json();
  assert.deepEqual(users, { users: [{ id: 'ann' }] });
});

test('a cache channel begins with its last event', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const server = serverOf(gateway);
  const early = await subscribed(await connected(t, gateway), 'cache-price');
  await until('a miss', () => early.heard.some(([event]) => event === 'pusher:cache_miss'));
  await server.trigger('cache-price', 'price', { value: 1 });
  await server.trigger('cache-price', 'price', { value: 2 });
  const late = await subscribed(await connected(t, gateway), 'cache-price');
  await heard(late, 1);
  assert.deepEqual(eventsOf(late), [['price', { value: 2 }]]);
  const answer = await server.get({ path: '/channels/cache-price', params: { info: 'cache' } });
  const { cache } = await answer.json();
  assert.equal(cache.data, '{"value":2}');
  assert.ok(cache.ttl > 1_790 && cache.ttl <= 1_800, `${cache.ttl}`);
});

test('what is encrypted is read at its ends alone', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const channel = await subscribed(await connected(t, gateway), 'private-encrypted-diary');
  const bare = await gateway.api('channels', { pattern: 'shop:*' });
  assert.deepEqual(Object.keys(bare.channels), ['shop:private-encrypted-diary']);
  await serverOf(gateway).trigger('private-encrypted-diary', 'entry', { secret: 'é' });
  await heard(channel, 1);
  assert.deepEqual(eventsOf(channel), [['entry', { secret: 'é' }]]);
});

test('a user who signs in is reached wherever it is, seen by who watches, and sent away', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const server = serverOf(gateway);
  const ann = await connected(t, gateway, { id: 'ann', watchlist: ['bob', 'cyd'] });
  const [online, offline, told] = [[], [], []];
  ann.user.watchlist.bind('online', (event) => online.push(...event.user_ids));
  ann.user.watchlist.bind('offline', (event) => offline.push(...event.user_ids));
  ann.user.bind('hello', (data) => told.push(data));
  ann.signin();
  await ann.user.signinDonePromise;
  const bob = await connected(t, gateway, { id: 'bob' });
  bob.signin();
  await until('bob is online', () => online.includes('bob'));
  await until('reached', async () => {
    await server.sendToUser('ann', 'hello', { n: 1 });
    return told.length;
  });
  assert.deepEqual(told[0], { n: 1 });
  await server.terminateUserConnections('bob');
  await until('bob is gone', () => bob.connection.state === 'disconnected');
  await until('bob is offline', () => offline.includes('bob'));
  assert.equal(ann.connection.state, 'connected');
});

test('servers ask which channels are occupied, and by how many', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [ann, bob] = [await connected(t, gateway, { id: 'ann' }), await connected(t, gateway, { id: 'bob' })];
  await subscribed(ann, 'news');
  await subscribed(ann, 'presence-a');
  await subscribed(bob, 'presence-a');
  const server = serverOf(gateway);
  const get = async (path, params) => (await server.get({ path, params })).json();
  assert.deepEqual(await get('/channels'), { channels: { news: {}, 'presence-a': {} } });
  const info = 'user_count,subscription_count';
  assert.deepEqual(await get('/channels', { filter_by_prefix: 'presence-', info }), {
    channels: { 'presence-a': { user_count: 2, subscription_count: 2 } },
  });
  assert.deepEqual(await get('/channels/news', { info: 'subscription_count' }), { occupied: true, subscription_count: 1 });
  assert.deepEqual(await get('/channels/nobody'), { occupied: false });
  await assert.rejects(get('/channels/news/users'), { status: 400 });
  await assert.rejects(server.trigger('news', 'large', 'x'.repeat(10 * 1024 + 1)), { status: 413 });
  const forger = new PusherServer({ appId: '1', key: 'app-key', secret: 'wrong', host: '127.0.0.1', port: String(gateway.port), useTLS: false });
  await assert.rejects(forger.trigger('news', 'e', {}), { status: 401 });
});

test('a webhook tells what happens in channels, and its signature holds', async (t) => {
  const posted = [];
  const application = createServer(async (request, response) => {
    let rawBody = '';
    for await (const chunk of request) rawBody += chunk;
    posted.push({ headers: request.headers, rawBody });
    response.end();
  });
  await new Promise((resolve) => application.listen(0, '127.0.0.1', resolve));
  t.after(() => application.close());
  const types = ['channel_occupied', 'channel_vacated', 'member_added', 'member_removed', 'client_event', 'cache_miss'];
  const config = `${CONFIG}
[pusher.webhooks]
vacated_delay_ms = 10
[pusher.apps.shop.webhooks.main]
url = "http://127.0.0.1:${application.address().port}/"
types = ${JSON.stringify(types)}
static_headers = ["X-Tenant: seven"]
`;
  const gateway = await startGateway(t, { config });
  const server = serverOf(gateway);
  const events = () => posted.flatMap((request) => {
    const webhook = server.webhook(request);
    assert.ok(webhook.isValid(), request.rawBody);
    assert.ok(Math.abs(webhook.getTime() - Date.now()) < 60_000);
    assert.equal(request.headers['x-tenant'], 'seven');
    return webhook.getEvents();
  });
  const ann = await connected(t, gateway, { id: 'ann' });
  const room = await subscribed(ann, 'presence-cache-room');
  room.trigger('client-hi', { n: 1 });
  await until('four events', () => events().length === 4);
  ann.disconnect();
  await until('all events', () => events().length === 6);
  const channel = 'presence-cache-room';
  const told = events().map(({ socket_id, ...event }) => event);
  const hi = { name: 'client_event', channel, event: 'client-hi', data: '{"n":1}', user_id: 'ann' };
  assert.deepEqual(told.slice(0, 4), [
    { name: 'channel_occupied', channel },
    { name: 'member_added', channel, user_id: 'ann' },
    { name: 'cache_miss', channel },
    hi,
  ]);
  assert.deepEqual(told.slice(4).map(({ name }) => name).sort(), ['channel_vacated', 'member_removed']);
  const forged = { ...posted[0], rawBody: posted[0].rawBody.replace('occupied', 'vacated') };
  assert.equal(server.webhook(forged).isValid(), false);
});

test('the app of the demo serves the library as it is', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: CONFIG.replace(/\[pusher[^]*?(?=\[drain)/, '') });
  const app = { appId: 'demo', key: 'demo', secret: 'demo' };
  const [one, other] = [clientOf(t, gateway, {}, 'demo', app), clientOf(t, gateway, {}, 'demo', app)];
  const [news, mine, theirs] =
    [await subscribed(one, 'news'), await subscribed(one, 'private-map'), await subscribed(other, 'private-map')];
  await serverOf(gateway, app).trigger('news', 'price', { value: 1.5 });
  mine.trigger('client-moved', { x: 1 });
  await heard(news, 1);
  await heard(theirs, 1);
  assert.deepEqual([eventsOf(news), eventsOf(theirs)], [[['price', { value: 1.5 }]], [['client-moved', { x: 1 }]]]);
});

test('the greeting says how long a client may hear nothing, without which pusher-js leaves', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG.replace('enabled = true', 'enabled = true\nactivity_timeout_s = 77') });
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/app/app-key?protocol=7&client=js&version=8.6.0`);
  t.after(() => socket.terminate());
  const first = await new Promise((resolve, reject) => socket.once('message', resolve).once('error', reject));
  const { event, data } = JSON.parse(first);
  assert.deepEqual([event, JSON.parse(data).activity_timeout], ['pusher:connection_established', 77]);
  const client = await connected(t, gateway);
  assert.equal(client.connection.handshake?.activityTimeout ?? client.connection.activityTimeout, 77_000);
});

test('who enters a presence channel is told ids, hash and count, and a member without info is one', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const server = serverOf(gateway);
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/app/app-key?protocol=7`);
  t.after(() => socket.terminate());
  const heardAll = [];
  socket.on('message', (data) => heardAll.push(JSON.parse(data)));
  const told = async (event) => {
    await until(event, () => heardAll.some((message) => message.event === event));
    return JSON.parse(heardAll.find((message) => message.event === event).data);
  };
  const { socket_id: id } = await told('pusher:connection_established');
  const data = { channel: 'presence-room', ...server.authorizeChannel(id, 'presence-room', { user_id: 'ann' }) };
  socket.send(JSON.stringify({ event: 'pusher:subscribe', data }));
  const { presence } = await told('pusher_internal:subscription_succeeded');
  assert.deepEqual(presence, { count: 1, ids: ['ann'], hash: { ann: null } });
});

test('the server stops what pusher-js does not: events of clients in public channels, and too early', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [one, other] = [await connected(t, gateway), await connected(t, gateway)];
  const [mine, theirs] = [await subscribed(one, 'news'), await subscribed(other, 'news')];
  mine.trigger('client-a', {});
  await until('refused', () => one.errors.length === 1);
  const early = await subscribed(other, 'private-map');
  // Sent before the client subscribes.
  one.send_event('client-b', {}, 'private-map');
  const late = await subscribed(one, 'private-map');
  await until('refused again', () => one.errors.length === 2);
  late.trigger('client-c', {});
  await heard(early, 1);
  assert.deepEqual([eventsOf(early), eventsOf(theirs)], [[['client-c', {}]], []]);
  assert.ok(one.errors.every(({ message }) => message.startsWith('client event rejected')), JSON.stringify(one.errors));
});

test('after signing in the library asks for the own channel of its user with an empty signature', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const ann = await connected(t, gateway, { id: 'ann' });
  const sent = [];
  const send = ann.connection.send_event.bind(ann.connection);
  ann.connection.send_event = (...event) => sent.push(event) && send(...event);
  ann.signin();
  await ann.user.signinDonePromise;
  const own = '#server-to-user-ann';
  await until('subscribed', async () => (await gateway.api('channels', { pattern: 'shop:*' })).channels['shop:#ann']);
  const [, asked] = sent.find(([event]) => event === 'pusher:subscribe');
  assert.deepEqual([asked.channel, asked.auth], [own, '']);
  await serverOf(gateway).sendToUser('ann', 'hello', 1);
});

test('codes bring clients back at once, after a second, or not at all', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  for (const [code, state] of [[4200, 'connected'], [4100, 'connected'], [4009, 'disconnected'], [4300, 'connected']]) {
    const client = await connected(t, gateway, { id: `user-${code}` });
    client.signin();
    await client.user.signinDonePromise;
    const before = client.connection.socket_id;
    await gateway.api('disconnect', { user: `shop:user-${code}`, disconnect: { code, reason: 'a test' } });
    await until(`${state} after ${code}`, () =>
      client.connection.state === state && (state === 'disconnected' || client.connection.socket_id !== before));
    client.disconnect();
  }
});

test('whoever names no app stays away, and a drain brings everybody back', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const stranger = clientOf(t, gateway, {}, 'no-such-key');
  await until('told', () => stranger.errors.some((error) => error?.code === 4001));
  await until('away', () => stranger.connection.state === 'disconnected');
  const client = await connected(t, gateway);
  const states = [];
  client.connection.bind('state_change', ({ current }) => states.push(current));
  await gateway.stop();
  await until('it tries again', () => states.includes('connecting'));
  assert.ok(!states.includes('disconnected') && !states.includes('failed'), states.join());
});

test('Laravel Echo listens, whispers and joins', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const echoOf = async (id) => new Echo({ broadcaster: 'pusher', client: await connected(t, gateway, { id }), key: 'app-key' });
  const [ann, bob] = [await echoOf('ann'), await echoOf('bob')];
  const told = [];
  ann.private('orders').listen('.shipped', (data) => told.push(['shipped', data])).listenForWhisper('typing', (data) => told.push(['typing', data]));
  const orders = bob.private('orders');
  await until('both are there', async () =>
    (await gateway.api('channels', { pattern: 'shop:private-orders' })).channels['shop:private-orders']?.num_clients === 2);
  await serverOf(gateway).trigger('private-orders', 'shipped', { order: 7 });
  await until('shipped', () => told.length === 1);
  orders.whisper('typing', { by: 'bob' });
  await until('typing', () => told.length === 2);
  assert.deepEqual(told, [['shipped', { order: 7 }], ['typing', { by: 'bob' }]]);
  const seen = [];
  ann.join('room').here((users) => seen.push(['here', users.map((user) => user.name)]))
    .joining((user) => seen.push(['joining', user.name]))
    .leaving((user) => seen.push(['leaving', user.name]));
  await until('here', () => seen.length === 1);
  bob.join('room');
  await until('joining', () => seen.length === 2);
  bob.leave('room');
  await until('leaving', () => seen.length === 3);
  assert.deepEqual(seen, [['here', ['ann']], ['joining', 'bob'], ['leaving', 'bob']]);
});
