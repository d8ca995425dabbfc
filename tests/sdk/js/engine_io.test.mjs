// Tests engine.io-client, the official library, at a bare endpoint: with polling, with WebSockets, with the upgrade, and at
// any of several nodes.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Socket } from 'engine.io-client';

import { startBalancer, startGateway, startNodes, until } from './support.mjs';

// An endpoint with frequent pings, and enough time to answer them on a busy machine.
const ENDPOINT = `
[raw.paths."/engine.io/"]
channel = "chat"
transport = "engine_io"
[channels]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
[socketio]
ping_interval_ms = 300
ping_timeout_ms = 5000
[drain]
notice_ms = 0
grace_ms = 100
`;
const CONFIG = `
[auth]
hmac_secret = "a secret of at least thirty-two bytes"
allow_anonymous = true
${ENDPOINT}`;

// Opens a client that records its messages and its end, and sends the messages `said` as soon as it is open.
async function opened(t, port, options = {}, said = []) {
  const client = new Socket(`http://127.0.0.1:${port}`, { path: '/engine.io/', ...options });
  client.binaryType = 'arraybuffer';
  Object.assign(client, { heard: [], pings: 0, closes: [], upgrades: 0, failedUpgrades: 0 });
  // The data of an empty text is undefined.
  const heard = (data = '') => (typeof data === 'string' ? data : [...new Uint8Array(data)]);
  client.on('message', (data) => client.heard.push(heard(data)));
  client.on('ping', () => (client.pings += 1));
  client.on('close', (reason) => client.closes.push(reason));
  client.on('upgradeError', () => (client.failedUpgrades += 1));
  client.on('error', () => {});
  client.on('upgrade', () => (client.upgrades += 1));
  client.on('open', () => said.forEach((data) => client.send(data)));
  t.after(() => client.close());
  await until('open', () => client.readyState === 'open');
  return client;
}

const numbers = (count) => Array.from({ length: count }, (_, index) => String(index));

for (const transport of ['polling', 'websocket']) {
  test(`text and data go both ways by ${transport} alone, and pings keep it alive`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG });
    const client = await opened(t, gateway.port, { transports: [transport] });
    const long = 'é'.repeat(100_000);
    client.send('hello');
    client.send(new Uint8Array([0, 1, 255]));
    client.send('');
    client.send(long);
    await until('all is heard', () => client.heard.length === 4);
    assert.deepEqual(client.heard, ['hello', [0, 1, 255], '', long]);
    numbers(200).forEach((number) => client.send(number));
    await until('the rest is heard', () => client.heard.length === 204);
    assert.deepEqual(client.heard.slice(4), numbers(200));
    await gateway.publish('chat', { from: 'a server' });
    await until('a publication is heard', () => client.heard.length === 205);
    assert.equal(client.heard[204], '{"from":"a server"}');
    await until('pings have come', () => client.pings > 3);
    assert.deepEqual([client.closes, client.transport.name], [[], transport]);
  });
}

test('a client begins by polling and changes over, and misses nothing meanwhile', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const sent = numbers(500);
  const client = await opened(t, gateway.port, {}, sent.slice(0, 250));
  for (const number of sent.slice(250)) {
    client.send(number);
    if (Number(number) % 20 === 0) await new Promise(setImmediate);
  }
  await until('it has changed over', () => client.upgrades === 1 && client.transport.name === 'websocket');
  await until('all is heard', () => client.heard.length === sent.length);
  assert.deepEqual(client.heard, sent);
  client.send('after that');
  await until('more is heard', () => client.heard.length === sent.length + 1);
  await until('pings have come', () => client.pings > 2);
  assert.deepEqual([client.closes, client.failedUpgrades], [[], 0]);
});

test('who is closed by a node that stops knows it at once, and can open another session', async (t) => {
  for (const [transport, reason] of Object.entries({ polling: 'transport error', websocket: 'transport close' })) {
    const gateway = await startGateway(t, { config: CONFIG });
    const client = await opened(t, gateway.port, { transports: [transport] });
    await gateway.stop();
    await until('it is told', () => client.closes.length === 1);
    assert.deepEqual(client.closes, [reason], transport);
  }
});

test('at three nodes in turn a client polls as at one', async (t) => {
  const nodes = await startNodes(t, 3, ENDPOINT);
  const balancer = await startBalancer(t, nodes.map(({ port }) => port));
  const clients = [];
  for (let count = 0; count < 3; count += 1) clients.push(await opened(t, balancer.port));
  const [first] = clients;
  const sent = numbers(30);
  for (const number of sent) {
    first.send(number);
    if (Number(number) % 5 === 0) await nodes[Number(number) % 3].publish('chat', `server ${number}`);
  }
  for (const client of clients) {
    await until('all is heard', () => client.heard.length === 36);
    assert.deepEqual(client.heard.filter((text) => !text.includes('server')), sent);
    await until('pings have come', () => client.pings > 3);
    // The balancer does not forward WebSockets.
    assert.deepEqual([client.closes, client.transport.name], [[], 'polling']);
  }
  const answered = new Set(balancer.of('/engine.io/').map(({ port }) => port));
  assert.equal(answered.size, 3, 'every node was asked');
  assert.ok(balancer.of('/engine.io/').every(({ status }) => status === 200));
});
