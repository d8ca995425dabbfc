// Tests socket.io-client, the official library: its newest release, the oldest with this protocol, and the first with further features.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';

import * as newest from 'socket.io-client';
import * as oldest from 'socket.io-client-3';
import * as first4 from 'socket.io-client-4.0';

import { connected as ofCentrifuge, startGateway, subscribed, token, until } from './support.mjs';

const CONFIG = `
[auth]
hmac_secret = "a secret of at least thirty-two bytes"
allow_anonymous = true
[socketio]
enabled = true
[socketio.namespaces."/".events."chat message"]
action = "publish"
[socketio.namespaces."/".events.whisper]
action = "publish"
room_argument = 0
to_sender = false
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
event = "user-joined"
[socketio.namespaces."/".events.leave]
action = "leave"
room_argument = 0
event = "user-left"
[socketio.namespaces."/custom"]
[socketio.namespaces."/members"]
users_only = true
[drain]
notice_ms = 0
grace_ms = 100
`;

// The oldest release exports a function, with the other exports as its properties.
const LIBRARIES = {
  'socket.io-client 4.8': newest,
  'socket.io-client 3.0': { io: oldest.default, Manager: oldest.default.Manager },
  'socket.io-client 4.0': first4,
};

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

// Returns the arguments of the next event of this name.
function event(socket, name) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no ${name} in time`)), 20_000);
    socket.once(name, (...args) => {
      clearTimeout(late);
      resolve(args);
    });
  });
}

// Emits an event, and returns the arguments of its acknowledgement.
const asked = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));

function socketOf(t, library, gateway, namespace = '/', options = {}) {
  const url = `http://127.0.0.1:${gateway.port}${namespace}`;
  const socket = library.io(url, { transports: ['websocket'], forceNew: true, reconnectionDelay: 50, ...options });
  t.after(() => socket.disconnect());
  return socket;
}

async function connected(...args) {
  const socket = socketOf(...args);
  await event(socket, 'connect');
  return socket;
}

const publish = (gateway, channel, data, tags) => gateway.api('publish', { channel, data, tags });

for (const [name, library] of Object.entries(LIBRARIES)) {
  test(`${name}: events, acknowledgements and bytes`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const [one, other] = await Promise.all([connected(t, library, gateway), connected(t, library, gateway)]);
    assert.notEqual(one.id, other.id);
    let told = Promise.all([event(one, 'chat message'), event(other, 'chat message')]);
    one.emit('chat message', 'hi', { x: [1, 2] }, 3);
    assert.deepEqual(await told, [['hi', { x: [1, 2] }, 3], ['hi', { x: [1, 2] }, 3]]);
    told = event(other, 'chat message');
    assert.deepEqual(await asked(one, 'chat message', Buffer.from([1, 2, 255])), [{ status: 'ok' }]);
    assert.deepEqual(await told, [Buffer.from([1, 2, 255])]);
    told = event(other, 'chat message');
    one.emit('chat message', { photo: { bytes: Buffer.from([9]) } }, 'x');
    assert.deepEqual(await told, [{ photo: { bytes: Buffer.from([9]) } }, 'x']);
    told = event(one, 'error');
    one.emit('unheard of', 1);
    assert.deepEqual(await told, [{ code: 103, message: 'permission denied' }]);
  });

  test(`${name}: rooms`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const [one, other] = await Promise.all([connected(t, library, gateway), connected(t, library, gateway)]);
    assert.deepEqual(await asked(one, 'join', 'room 1'), [{ status: 'ok' }]);
    let told = event(one, 'user-joined');
    other.emit('join', 'room 1');
    assert.deepEqual(await told, [other.id]);
    told = event(other, 'whisper');
    one.emit('whisper', 'room 1', 'psst', 2);
    assert.deepEqual(await told, ['psst', 2]);
    told = event(one, 'user-left');
    other.emit('leave', 'room 1');
    assert.deepEqual(await told, [other.id]);
    const [refused] = await asked(other, 'whisper', 'room 1', 'psst');
    assert.equal(refused.status, 'error');
  });

  test(`${name}: namespaces, one connection for all of them`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const manager = new library.Manager(`http://127.0.0.1:${gateway.port}`, { transports: ['websocket'] });
    const auth = { token: token({ sub: 'ann' }) };
    const sockets = ['/', '/custom', '/members'].map((namespace) => manager.socket(namespace, { auth }));
    t.after(() => sockets.forEach((socket) => socket.disconnect()));
    await Promise.all(sockets.map((socket) => event(socket, 'connect')));
    const [main, custom, members] = sockets;
    assert.notEqual(main.id, custom.id);
    const told = event(custom, 'news');
    await publish(gateway, 'custom:*', { a: 1 }, { event: 'news' });
    assert.deepEqual(await told, [{ a: 1 }]);
    const gone = event(members, 'disconnect');
    await gateway.api('unsubscribe', { user: 'ann', channel: 'members:*' });
    assert.equal((await gone)[0], 'io server disconnect');
    assert.ok(main.connected && custom.connected);

    const [unknown] = await event(socketOf(t, library, gateway, '/random'), 'connect_error');
    assert.equal(unknown.message, 'Invalid namespace');
    const stranger = socketOf(t, library, gateway, '/members');
    const [refused] = await event(stranger, 'connect_error');
    assert.equal(refused.data.code, 101);
    const wrong = socketOf(t, library, gateway, '/members', { auth: { token: 'nonsense' } });
    assert.equal((await event(wrong, 'connect_error'))[0].message, 'invalid token');
    wrong.auth = auth;
    wrong.connect();
    await event(wrong, 'connect');
  });

  test(`${name}: who is sent away stays away, and who loses its node comes back`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const away = await connected(t, library, gateway, '/members', { auth: { token: token({ sub: 'ann' }) } });
    const sent = event(away, 'disconnect');
    await gateway.api('disconnect', { user: 'ann' });
    assert.equal((await sent)[0], 'io server disconnect');
    const back = await connected(t, library, gateway);
    const lost = event(back, 'disconnect');
    const stopped = gateway.stop();
    assert.equal((await lost)[0], 'transport close');
    assert.ok(back.active !== false, 'it tries again');
    await stopped;
  });
}

for (const [way, transports] of Object.entries({ polling: ['polling'], 'polling and then a WebSocket': ['polling', 'websocket'] })) {
  test(`socket.io-client 4.8 by ${way}: events, bytes, rooms and namespaces`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const [one, other] = await Promise.all([1, 2].map(() => connected(t, newest, gateway, '/', { transports })));
    if (transports.length > 1) await until('it has changed over', () => one.io.engine.transport.name === 'websocket');
    const told = event(other, 'chat message');
    const ack = await asked(one, 'chat message', { photo: Buffer.from([1, 255]) }, 'x');
    assert.deepEqual([ack, await told], [[{ status: 'ok' }], [{ photo: Buffer.from([1, 255]) }, 'x']]);
    await asked(one, 'join', 'room');
    const joined = event(one, 'user-joined');
    await asked(other, 'join', 'room');
    assert.deepEqual(await joined, [other.id]);
    await connected(t, newest, gateway, '/custom', { transports });
    const gone = event(other, 'disconnect');
    const stopped = gateway.stop();
    await gone;
    await stopped;
  });
}

test('the example with a backend of its own', async (t) => {
  const port = await freePort();
  const example = new URL('../../../deploy/examples/socketio/', import.meta.url).pathname;
  const backend = spawn(process.execPath, [`${example}backend.mjs`], { env: { PORT: String(port) }, stdio: 'inherit' });
  t.after(() => backend.kill());
  const config = readFileSync(`${example}backend.toml`, 'utf8').replace('127.0.0.1:3000', `127.0.0.1:${port}`);
  const gateway = await startGateway(t, { config });
  await until('the backend listens', () => fetch(`http://127.0.0.1:${port}`, { method: 'POST', body: '{}' }).then(() => true, () => false));
  const stranger = socketOf(t, newest, gateway);
  assert.equal((await event(stranger, 'connect_error'))[0].message, 'say your name');
  const named = (name) => socketOf(t, newest, gateway, '/', { auth: { name } });
  const [ann, bob] = [named('ann'), named('bob')];
  await Promise.all([event(ann, 'welcome'), event(bob, 'welcome')]);
  let told = event(bob, 'chat message');
  assert.deepEqual(await asked(ann, 'chat message', 'hello'), [{ ok: true }]);
  assert.deepEqual(await told, ['hello', ann.id]);
  await asked(ann, 'join-room', 'tea');
  told = event(ann, 'user-joined');
  assert.deepEqual(await asked(bob, 'join-room', 'tea'), [{ ok: true }]);
  assert.deepEqual(await told, [bob.id]);
  told = event(bob, 'message');
  ann.emit('message', 'tea', 'psst');
  assert.deepEqual(await told, [ann.id, 'psst']);
  told = event(ann, 'private message');
  bob.emit('private message', ann.id, 'for you');
  assert.deepEqual(await told, [bob.id, 'for you']);
  const gone = event(bob, 'disconnect');
  bob.emit('bye');
  assert.equal((await gone)[0], 'io server disconnect');
});

test('a client that subscribes to a room on another wire hears its events, and is heard', async (t) => {
  const open = '[namespaces.socketio]\nallow_subscribe_anonymous = true\n';
  const gateway = await startGateway(t, { config: CONFIG + open });
  const centrifuge = await ofCentrifuge(t, `ws://127.0.0.1:${gateway.port}/connection/websocket`);
  const room = await subscribed(centrifuge, 'socketio:news');
  const socket = await connected(t, newest, gateway);
  await asked(socket, 'join', 'news');
  socket.emit('whisper', 'news', { a: 1 });
  await until('it is heard', () => room.publications.length === 2);
  assert.equal(room.publications[0].tags.event, 'user-joined');
  assert.deepEqual([room.publications[1].data, room.publications[1].tags.event], [{ a: 1 }, 'whisper']);
});
