// Tests Socket.IO's emitters for Node, the official one and its predecessor, through Redis to clients on three nodes, and beside
// them a Socket.IO server with its Redis adapter.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';

import { createAdapter } from '@socket.io/redis-adapter';
import { Emitter } from '@socket.io/redis-emitter';
import { Redis } from 'ioredis';
import { Server } from 'socket.io';
import { io } from 'socket.io-client';
import before from 'socket.io-emitter';

import { startNodes, startRedis, until } from './support.mjs';

const EMITTERS = `
[socketio]
enabled = true
[socketio.namespaces."/"]
[socketio.namespaces."/admin"]
[socketio.emitters]
enabled = true
[namespaces.socketio]
history_size = 5000
history_ttl_s = 300
`;

const metric = async (node, name) => Number(new RegExp(`^tidegate_${name} (.*)$`, 'm').exec(await node.metrics())?.[1]);

// Starts nodes that receive emitters' messages from Redis, and waits until one of them carries these out.
async function startListening(t, count, more = '') {
  const nodes = await startNodes(t, count, EMITTERS + more);
  for (const node of nodes) {
    await until('it hears emitters', async () => (await metric(node, 'socketio_emitters_link_up')) === 1);
  }
  await until('one carries out', () => leaderOf(nodes));
  return nodes;
}

async function leaderOf(nodes) {
  const leads = await Promise.all(nodes.map((node) => metric(node, 'socketio_emitters_leader')));
  return nodes[leads.indexOf(1)];
}

function redisOf(t, url) {
  const client = new Redis(url);
  // At the end of the test, Redis stops before this client.
  client.on('error', () => {});
  t.after(() => client.disconnect());
  return client;
}

// Connects a client that records all events in order.
async function listener(t, node, namespace = '/', transports = ['websocket']) {
  const socket = io(`http://127.0.0.1:${node.port}${namespace}`, { transports, forceNew: true, reconnectionDelay: 50 });
  t.after(() => socket.disconnect());
  socket.told = [];
  socket.onAny((...told) => socket.told.push(told));
  await until('it is connected', () => socket.connected);
  return socket;
}

// Waits until each client has received these events and a mark. Duplicates and events for other clients show up at this mark or the
// next one, because events of different rooms have no order.
async function all(emitter, sockets, told) {
  emitter.emit('mark');
  const inOrder = (events) => events.map((event) => JSON.stringify(event)).sort();
  for (const [index, socket] of sockets.entries()) {
    const expected = [...told[index], ['mark']];
    await until(`client ${index} is told all`, () => socket.told.length >= expected.length);
    assert.deepEqual(inOrder(socket.told), inOrder(expected), `client ${index}`);
    socket.told.length = 0;
  }
}

test('@socket.io/redis-emitter: each client gets each event once, on every node', async (t) => {
  const nodes = await startListening(t, 3);
  const emitter = new Emitter(redisOf(t, nodes.redis.url));
  const ways = [['websocket'], ['polling'], ['polling', 'websocket']];
  const sockets = await Promise.all([0, 1, 2, 0].map((node, at) => listener(t, nodes[node], '/', ways[at % 3])));
  const [one, two, three, four] = sockets;
  const admin = await listener(t, nodes[1], '/admin');

  emitter.emit('hello', 'world', { a: [1, null, 2.5] }, undefined);
  await all(emitter, sockets, Array(4).fill([['hello', 'world', { a: [1, null, 2.5] }, null]]));

  // Joins take effect before later events are sent.
  emitter.in(one.id).socketsJoin(['a', 'b c']);
  emitter.in([two.id, three.id]).socketsJoin('a');
  emitter.to('a').to('b c').emit('union', 1);
  emitter.to('a').except('b c').emit('but for', 2);
  emitter.to(three.id).emit('private', 3);
  emitter.except([one.id, two.id]).emit('others', 4);
  emitter.to('b c').emit('one room', 5);
  emitter.to('nowhere').emit('nobody', 6);
  await all(emitter, sockets, [
    [['union', 1], ['one room', 5]],
    [['union', 1], ['but for', 2]],
    [['union', 1], ['but for', 2], ['private', 3], ['others', 4]],
    [['others', 4]],
  ]);

  const when = new Date(1577836800123);
  emitter.to('a').emit('bytes', Buffer.from([0, 1, 255]), { deep: [new Uint8Array([9]), when] });
  emitter.to('a').emit('whole', Buffer.from([7]));
  const bytes = [['bytes', Buffer.from([0, 1, 255]), { deep: [Buffer.from([9]), when.toISOString()] }], ['whole', Buffer.from([7])]];
  await all(emitter, sockets, [bytes, bytes, bytes, []]);

  emitter.in('a').except(three.id).socketsLeave('a');
  emitter.to('a').volatile.emit('left', 1);
  emitter.of('/admin').emit('for admins', 1);
  emitter.serverSideEmit('nobody listens');
  await all(emitter, sockets, [[], [], [['left', 1]], []]);
  await all(emitter, sockets, [[], [], [], []]);
  await until('another namespace is another', () => admin.told.length === 1);
  assert.deepEqual(admin.told, [['for admins', 1]]);

  const ended = (socket) => new Promise((resolve) => socket.once('disconnect', resolve));
  const [put, closed] = [ended(two), ended(four)];
  emitter.in(two.id).disconnectSockets();
  emitter.in(four.id).disconnectSockets(true);
  assert.deepEqual(await Promise.all([put, closed]), ['io server disconnect', 'io server disconnect']);
  assert.ok(one.connected && three.connected && !four.io.engine?.readyState.startsWith('open'));
});

test('socket.io-emitter, its predecessor', async (t) => {
  const nodes = await startListening(t, 2);
  const client = redisOf(t, nodes.redis.url);
  const [emitter, newer] = [before(client), new Emitter(client)];
  const sockets = [await listener(t, nodes[0]), await listener(t, nodes[1])];
  newer.in(sockets[0].id).socketsJoin('a');
  emitter.to('a').emit('old', { a: 1 }, Buffer.from([1, 2]), undefined, new Date(0));
  emitter.to('a').to('b').volatile.emit('two rooms');
  emitter.emit('all', 1);
  const old = [['old', { a: 1 }, Buffer.from([1, 2]), null, '1970-01-01T00:00:00.000Z'], ['two rooms'], ['all', 1]];
  await all(newer, sockets, [old, [['all', 1]]]);
});

test('a parser of JSON, another prefix and another Redis', async (t) => {
  const theirs = await startRedis(t);
  const more = `[socketio.emitters]\nurl = "${theirs.url}"\nprefix = "shop"\n`;
  const nodes = await startNodes(t, 2, EMITTERS.replace('[socketio.emitters]\n', more));
  for (const node of nodes) {
    await until('it hears emitters', async () => (await metric(node, 'socketio_emitters_link_up')) === 1);
  }
  await until('one carries out', () => leaderOf(nodes));
  const parser = { encode: JSON.stringify };
  const emitter = new Emitter(redisOf(t, theirs.url), { key: 'shop', parser });
  const sockets = [await listener(t, nodes[0]), await listener(t, nodes[1])];
  emitter.to(sockets[1].id).emit('e', { a: [1] });
  await all(emitter, sockets, [[], [['e', { a: [1] }]]]);
});

test('nodes are killed in the middle, and nobody misses an event or is told one twice', async (t) => {
  const nodes = await startListening(t, 3);
  const emitter = new Emitter(redisOf(t, nodes.redis.url));
  let left = [...nodes];
  let sent = 0;
  const send = (count) => {
    for (let n = 0; n < count; n += 1) emitter.emit('n', (sent += 1));
  };
  // Two nodes stop, one after the other: each time the one that carries out the emitter's messages.
  for (const survivors of [2, 1]) {
    const leader = await until('one carries out', () => leaderOf(left));
    left = left.filter((node) => node !== leader);
    const sockets = await Promise.all(left.flatMap((node) => [listener(t, node), listener(t, node)]));
    const from = sent + 1;
    send(150);
    const killed = leader.kill();
    send(150);
    await killed;
    send(50);
    const last = sent;
    const expected = Array.from({ length: last - from + 1 }, (_, index) => ['n', from + index]);
    for (const socket of sockets) {
      await until('the last has come', () => socket.told.at(-1)?.[1] === last);
      assert.deepEqual(socket.told, expected);
    }
    assert.equal(left.length, survivors);
  }
  const { publications, offset } = await left[0].api('history', { channel: 'socketio:*', limit: 1000 });
  assert.deepEqual(publications.map(({ data }) => data), Array.from({ length: sent }, (_, index) => index + 1));
  assert.equal(offset, sent);
});

test('a server of Socket.IO with its Redis adapter may go on beside the nodes', async (t) => {
  const nodes = await startListening(t, 2);
  const http = createServer();
  let server;
  // Hooks run in this order: the server closes before its connections to Redis, over which it announces its end.
  t.after(() => server?.close());
  server = new Server(http, { adapter: createAdapter(redisOf(t, nodes.redis.url), redisOf(t, nodes.redis.url), { requestsTimeout: 2_000 }) });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  const own = await listener(t, { port: http.address().port });
  const sockets = [await listener(t, nodes[0]), await listener(t, nodes[1])];
  // Events of the server reach the nodes' clients too.
  server.emit('from the server', { a: 1 });
  server.in(sockets[0].id).socketsJoin('a');
  server.to('a').emit('in a room', Buffer.from([5]));
  const emitter = new Emitter(redisOf(t, nodes.redis.url));
  await all(emitter, [own, ...sockets], [
    [['from the server', { a: 1 }]],
    [['from the server', { a: 1 }], ['in a room', Buffer.from([5])]],
    [['from the server', { a: 1 }]],
  ]);
  // The adapter does not wait for answers of the nodes.
  const listed = await server.fetchSockets();
  assert.deepEqual(listed.map(({ id }) => id), [own.id]);
});
