// Tests Engine.IO and Socket.IO clients that begin with polling and upgrade to a WebSocket, the default of their libraries: behind
// a balancer that sends each request and each WebSocket to another node, and over TLS.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Socket } from 'engine.io-client';
import { io } from 'socket.io-client';

import { makeCertificate } from '../../support/certificate.mjs';
import { startBalancer, startGateway, startNodes, until } from './support.mjs';

const SERVED = `
[cluster]
listen = "127.0.0.1:0"
[raw.paths."/engine.io/"]
channel = "chat"
transport = "engine_io"
[channels]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
[socketio]
enabled = true
ping_interval_ms = 500
ping_timeout_ms = 5000
[socketio.namespaces."/".events.said]
action = "publish"
[drain]
notice_ms = 0
grace_ms = 300
`;

const numbers = (count) => Array.from({ length: count }, (_, index) => index);

function engine(t, url, options = {}) {
  const client = new Socket(url, { path: '/engine.io/', ...options });
  Object.assign(client, { heard: [], closes: [], failedUpgrades: 0, pings: 0 });
  client.on('message', (data) => client.heard.push(data));
  client.on('ping', () => (client.pings += 1));
  client.on('close', (reason) => client.closes.push(reason));
  client.on('upgradeError', () => (client.failedUpgrades += 1));
  client.on('error', () => {});
  t.after(() => client.close());
  return client;
}

function socket(t, url, options = {}) {
  const client = io(url, { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200, ...options });
  Object.assign(client, { heard: [], cutOff: 0 });
  client.on('said', (data) => client.heard.push(data));
  client.on('disconnect', () => (client.cutOff += 1));
  t.after(() => client.disconnect());
  return client;
}

const transportOf = (client) => (client.io ? client.io.engine : client)?.transport?.name;
const all = (clients, holds) => clients.every(holds);
const sum = (counts) => counts.reduce((sum, count) => sum + count, 0);

async function figure(node, name) {
  const [, value] = (await node.metrics()).split('\n').find((line) => line.startsWith(`tidegate_${name} `)).split(' ');
  return Number(value);
}

async function behindABalancer(t) {
  const nodes = await startNodes(t, 3, SERVED);
  const balancer = await startBalancer(t, nodes.map(({ port }) => port), { webSockets: true });
  return { nodes, balancer, url: `http://127.0.0.1:${balancer.port}` };
}

test('engine.io-client: at three nodes in turn all change over, and nothing is missed or heard twice', async (t) => {
  const { nodes, url } = await behindABalancer(t);
  // Publications from before the clients connect until after their upgrade; each client must receive a sequence without gaps.
  let published = 0;
  let over = false;
  const publishing = (async () => {
    while (!over) await nodes[published % 3].publish('chat', published++);
  })();
  const clients = numbers(12).map(() => engine(t, url));
  const sent = numbers(200).map((number) => `from the first ${number}`);
  clients[0].on('open', () => sent.forEach((text) => clients[0].send(text)));
  await until('all have changed over', () => all(clients, (client) => transportOf(client) === 'websocket'));
  const soFar = published;
  await until('more is published', () => published > soFar + 50);
  over = true;
  await publishing;
  const last = String(published - 1);
  for (const client of clients) {
    await until('all is heard', () => client.heard.includes(last) && client.heard.includes(sent.at(-1)));
    const row = client.heard.filter((text) => !text.startsWith('from')).map(Number);
    assert.deepEqual(row, numbers(published).slice(row[0]), 'each once, in order');
    assert.deepEqual([client.closes, client.failedUpgrades], [[], 0]);
  }
  assert.deepEqual(clients[0].heard.filter((text) => text.startsWith('from')), sent);
  const carried = sum(await Promise.all(nodes.map((node) => figure(node, 'engine_io_carried'))));
  assert.ok(carried > 0, 'some have their session at another node');
  for (const client of clients) await until('it is pinged', () => client.pings > 2);
});

test('socket.io-client: all change over, and come back and change over again when any node dies or stops', async (t) => {
  const { nodes, balancer, url } = await behindABalancer(t);
  const clients = numbers(12).map(() => socket(t, url));
  const haveChanged = () => all(clients, (client) => client.connected && transportOf(client) === 'websocket');
  await until('all have changed over', haveChanged);
  const said = async (what, nodes) => {
    clients[0].emit('said', what);
    await nodes[0].api('publish', { channel: 'socketio:*', data: `${what} by a server`, tags: { event: 'said' } }).catch(() => {});
    for (const client of clients) await until(`all hear ${what}`, () => client.heard.includes(what));
  };
  await said('at three', nodes);
  assert.equal(sum(clients.map(({ cutOff }) => cutOff)), 0);
  balancer.ports = nodes.slice(0, 2).map(({ port }) => port);
  await nodes[2].kill();
  // Until the clients notice, all seem to be connected, and messages on a dead connection are lost.
  const areCutOff = (before) => () => sum(clients.map(({ cutOff }) => cutOff)) > before;
  await until('those of it are cut off', areCutOff(0));
  await until('those of it are back', haveChanged);
  const before = sum(clients.map(({ cutOff }) => cutOff));
  await said('at two', nodes);
  balancer.ports = [nodes[0].port];
  assert.equal(await nodes[1].stop(), 0);
  await until('those of it are cut off too', areCutOff(before));
  await until('all are at one node', haveChanged);
  await said('at one', nodes);
  assert.equal(await figure(nodes[0], 'engine_io_carried'), 0);
  assert.ok(all(clients, ({ cutOff }) => cutOff <= 3), 'nobody was cut off for nothing');
});

test('polling over https and then wss: engine.io-client and socket.io-client', async (t) => {
  const certificate = makeCertificate(t);
  const config = `[auth]
hmac_secret = "a secret of at least thirty-two bytes"
allow_anonymous = true
${SERVED}${certificate.config}`;
  const gateway = await startGateway(t, { config });
  const url = `https://localhost:${gateway.port}`;
  const client = engine(t, url, { ca: certificate.authority });
  const sent = numbers(300).map((number) => `${number} ${'x'.repeat(1_000)}`);
  client.on('open', () => sent.slice(0, 150).forEach((text) => client.send(text)));
  await until('it has changed over', () => transportOf(client) === 'websocket');
  sent.slice(150).forEach((text) => client.send(text));
  await until('all is heard', () => client.heard.length === sent.length);
  assert.deepEqual([client.heard, client.closes, client.failedUpgrades], [sent, [], 0]);
  const polls = engine(t, url, { ca: certificate.authority, transports: ['polling'] });
  await until('it is open', () => polls.readyState === 'open');
  polls.send('by requests alone');
  await until('it is heard', () => polls.heard.includes('by requests alone'));

  const both = [1, 2].map(() => socket(t, url, { ca: certificate.authority }));
  await until('they have changed over', () => all(both, (one) => one.connected && transportOf(one) === 'websocket'));
  both[0].emit('said', 'securely');
  await until('it is heard', () => both[1].heard.includes('securely'));
});
