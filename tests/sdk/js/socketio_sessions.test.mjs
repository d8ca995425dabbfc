// Tests that socket.io-client resumes its session at three nodes behind a balancer that sends each request to the next node: with the
// newest release, and with the first that supports it.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as newest from 'socket.io-client';
import * as first from 'socket.io-client-4.6';

import { startBalancer, startNodes, startRelay, until } from './support.mjs';

const CONFIG = `
[namespaces.socketio]
history_size = 1000
history_ttl_s = 60
[socketio]
enabled = true
[socketio.namespaces."/"]
recovery_ms = 60000
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
`;

const LIBRARIES = { 'socket.io-client 4.8': newest, 'socket.io-client 4.6': first };
const TRANSPORTS = { websocket: ['websocket'], polling: ['polling'], 'polling, then websocket': ['polling', 'websocket'] };

// Starts three nodes behind a balancer.
async function cluster(t, more = '') {
  const nodes = await startNodes(t, 3, CONFIG + more);
  const balancer = await startBalancer(t, nodes.map(({ port }) => port), { webSockets: true });
  return { nodes, balancer, alive: [...nodes] };
}

function socketOf(t, library, { balancer }, options = {}) {
  const socket = library.io(balancer.http('/'), { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200, ...options });
  t.after(() => socket.disconnect());
  socket.connects = 0;
  socket.told = [];
  socket.on('connect', () => (socket.connects += 1));
  socket.on('news', (number) => socket.told.push(number));
  socket.passing = [];
  socket.on('passing', (number) => socket.passing.push(number));
  return socket;
}

const connected = (socket, times = 1) => until(`it is connected ${times} times`, () => socket.connects >= times && socket.connected);

// Publishes numbered events, alternately to the namespace and to a room, each through the next node. Some are not retained: they end
// with a text, as offsets do.
class Publisher {
  #number = 0;

  constructor(cluster) {
    this.cluster = cluster;
    this.sent = [];
  }

  async send(count) {
    for (let at = 0; at < count; at += 1) {
      const number = (this.#number += 1);
      const { alive } = this.cluster;
      const node = alive[number % alive.length];
      const rooms = number % 2 ? ['a'] : [];
      if (number % 3 === 0) {
        await node.api('socketio_emit', { event: 'passing', args: [number, 'a text'], rooms, volatile: true });
      } else {
        await node.api('socketio_emit', { event: 'news', args: [number], rooms });
        this.sent.push(number);
      }
    }
  }
}

// Returns the node that has the client, if any.
async function nodeOf({ nodes, alive }, socket) {
  const { sockets } = await alive[0].api('socketio_sockets', {});
  const { nodes: known } = await alive[0].api('info');
  const of = sockets.find(({ id }) => id === socket.id);
  const name = known.find(({ uid }) => uid === of?.node)?.name;
  return name && nodes[Number(name.split('-')[1]) - 1];
}

// Checks that no event is missing or duplicated, and that each room's events are in order. Events of different rooms may change
// places when a client resumes.
function assertTold(socket, { sent }) {
  const ofRoom = (numbers, odd) => numbers.filter((number) => number % 2 === odd);
  for (const odd of [0, 1]) assert.deepEqual(ofRoom(socket.told, odd), ofRoom(sent, odd));
}

const asked = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));

for (const [name, library] of Object.entries(LIBRARIES)) {
  for (const [way, transports] of Object.entries(TRANSPORTS)) {
    test(`${name} over ${way}: the node is killed, and nothing is missed at another`, async (t) => {
      const of = await cluster(t);
      const socket = socketOf(t, library, of, { transports });
      await connected(socket);
      assert.equal(socket.recovered, false);
      const { id } = socket;
      assert.deepEqual(await asked(socket, 'join', 'a'), [{ status: 'ok' }]);
      const publisher = new Publisher(of);
      await publisher.send(30);
      await until('all were told', () => socket.told.length === publisher.sent.length);
      for (const times of [2, 3]) {
        const doomed = await nodeOf(of, socket);
        of.alive = of.alive.filter((node) => node !== doomed);
        doomed.kill();
        // As after a balancer's health checks.
        of.balancer.ports = of.alive.map(({ port }) => port);
        await publisher.send(30);
        await connected(socket, times);
        assert.equal(socket.recovered, true, `after ${times - 1} nodes`);
        assert.equal(socket.id, id);
        await publisher.send(10);
        await until('all were told', () => socket.told.length >= publisher.sent.length);
        assertTold(socket, publisher);
      }
      assert.ok(socket.passing.length > 0, 'events that pass came in between');
    });
  }

  test(`${name}: a network that is changed again and again loses nothing and tells nothing twice`, async (t) => {
    const of = await cluster(t);
    const relay = await startRelay(t, of.nodes[0].port);
    const through = { balancer: { http: (path) => `http://127.0.0.1:${relay.port}${path}` } };
    const socket = socketOf(t, library, through, { transports: ['websocket'] });
    await connected(socket);
    const { id } = socket;
    assert.deepEqual(await asked(socket, 'join', 'a'), [{ status: 'ok' }]);
    const publisher = new Publisher(of);
    const sending = publisher.send(300);
    for (let times = 2; times < 8; times += 1) {
      // The previous node does not notice that the connection is lost.
      relay.stall();
      relay.target = of.nodes[times % 3].port;
      socket.io.engine.close();
      await connected(socket, times);
      assert.equal(socket.recovered, true);
      assert.equal(socket.id, id);
    }
    await sending;
    await until('all were told', () => socket.told.length >= publisher.sent.length);
    assertTold(socket, publisher);
    const { sockets } = await of.nodes[0].api('socketio_sockets', {});
    assert.equal(sockets.length, 1, 'the connections before it are gone');
  });

  test(`${name}: who was away for too long begins anew, and leaves for good if it says so`, async (t) => {
    const of = await cluster(t);
    const socket = socketOf(t, library, of, { transports: ['websocket'] });
    await connected(socket);
    const { id } = socket;
    socket.disconnect().connect();
    await connected(socket, 2);
    assert.equal(socket.recovered, false);
    assert.notEqual(socket.id, id);
    const before = socket.id;
    await of.nodes.redis.ask('FLUSHALL');
    socket.io.engine.close();
    await connected(socket, 3);
    assert.equal(socket.recovered, false);
    assert.notEqual(socket.id, before);
  });
}

for (const [name, library] of Object.entries(LIBRARIES)) {
  test(`${name}: servers ask for acknowledgements, at whichever node the client is`, async (t) => {
    const of = await cluster(t);
    const transports = [['websocket'], ['polling']];
    const [one, other] = transports.map((transports) => socketOf(t, library, of, { transports }));
    await Promise.all([connected(one), connected(other)]);
    for (const socket of [one, other]) {
      assert.deepEqual(await asked(socket, 'join', 'a'), [{ status: 'ok' }]);
      socket.on('double', ({ number }, bytes, answer) => answer({ twice: number * 2 }, Buffer.from(bytes)));
      socket.on('silent', () => {});
    }
    const request = { rooms: ['a'], event: 'double', args: [{ number: 21 }, 'AQI='], binary: ['/1'] };
    const { answers } = await of.nodes[0].api('socketio_ask', request);
    const byId = (answers) => Object.fromEntries(answers.map(({ id, ...rest }) => [id, rest]));
    const answer = { status: 'answered', args: [{ twice: 42 }, 'AQI='], binary: ['/1'] };
    assert.deepEqual(byId(answers), { [one.id]: answer, [other.id]: answer });
    const { answers: none } = await of.nodes[1].api('socketio_ask', { rooms: [one.id], event: 'silent', timeout_ms: 200 });
    assert.deepEqual(none, [{ id: one.id, status: 'timeout' }]);
    // A question to a client is not an event with an offset, so the client's last offset remains valid.
    one.io.engine.close();
    await connected(one, 2);
    assert.equal(one.recovered, true);
  });
}
