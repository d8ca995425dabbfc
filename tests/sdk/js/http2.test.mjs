// Tests the library over HTTP/2 (RFC 8441): with Node's client, and through HAProxy in front of the gateway.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { makeCertificate } from '../../support/certificate.mjs';
import { connectHttp2, socketsOver } from './http2-socket.mjs';
import { freePort } from '../../support/redis.mjs';
import {
  API_KEY, CONFIG, WebSocket, connected, dataOf, inSeconds, next, offsetsOf, startGateway, subscribed, token, until,
} from './support.mjs';

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

const as = (user) => ({ token: token({ sub: user, exp: inSeconds(60) }) });

async function secure(t) {
  const certificate = makeCertificate(t);
  const gateway = await startGateway(t, { config: CONFIG + certificate.config });
  const session = await connectHttp2(t, `https://localhost:${gateway.port}`, certificate.authority);
  return { certificate, gateway, session };
}

// Calls the server API over the connection that clients share.
async function api(session, method, params) {
  const headers = { ':method': 'POST', ':path': `/api/${method}`, 'x-api-key': API_KEY };
  const stream = session.request(headers).setEncoding('utf8');
  stream.end(JSON.stringify(params));
  let body = '';
  for await (const text of stream) body += text;
  const { result, error } = JSON.parse(body);
  if (error) throw new Error(`${method}: ${error.message}`);
  return result;
}

test('many clients share a connection, with all that a subscription can do', async (t) => {
  const { gateway, session } = await secure(t);
  const url = `wss://localhost:${gateway.port}/connection/websocket`;
  const options = { websocket: socketsOver(session), ...as('ann') };
  const clients = await Promise.all(numbers(1, 10).map(() => connected(t, url, options)));
  const all = await Promise.all(clients.map((made) => subscribed(made, 'news:a')));
  await all[0].publish(1);
  // More than a stream's window, and more than the gateway buffers for a stream.
  const large = 'x'.repeat(200_000);
  await api(session, 'publish', { channel: 'news:a', data: large });
  await api(session, 'publish', { channel: 'news:a', data: 3 });
  for (const news of all) {
    await until('three publications', () => news.publications.length === 3);
    assert.deepEqual(dataOf(news), [1, large, 3]);
    assert.deepEqual(offsetsOf(news), [1, 2, 3]);
  }
  assert.equal((await all[0].presenceStats()).numClients, 10);
  assert.equal((await all[0].history({ limit: 2 })).publications.length, 2);
  assert.equal(session.sockets, 10);

  // One client is closed, reconnects over the same HTTP/2 connection and recovers; the others stay.
  const back = next(all[3], 'subscribed');
  const lost = next(clients[3], 'connecting');
  const { client } = clients[3].context;
  await api(session, 'disconnect', { client, disconnect: { code: 4000, reason: 'move' } });
  assert.equal((await lost).code, 4000);
  assert.equal((await back).recovered, true);
  assert.equal(session.sockets, 11);
  assert.ok(clients.every(({ state }) => state === 'connected'));
  await clients[4].ready();

  // A client that disconnects leaves the channel.
  clients[5].disconnect();
  await until('nine are left', async () => (await all[0].presenceStats()).numClients === 9);
});

test('a client that speaks Protobuf does so over HTTP/2, too', async (t) => {
  const { gateway, session } = await secure(t);
  const Socket = socketsOver(session);
  const socket = new Socket(`wss://localhost:${gateway.port}/connection/websocket`, ['centrifuge-protobuf']);
  const told = new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => resolve(Buffer.from(data));
    socket.onerror = reject;
  });
  // A connect command with the id 1, behind its length.
  socket.onopen = () => socket.send(Buffer.from([4, 8, 1, 34, 0]));
  const reply = await told;
  assert.equal(socket.protocol, 'centrifuge-protobuf');
  assert.equal(reply[0], reply.length - 1);
  assert.deepEqual([...reply.subarray(1, 3)], [8, 1]);
  const closed = new Promise((resolve) => {
    socket.onclose = resolve;
  });
  socket.close(1000);
  assert.equal((await closed).code, 1000);
});

// The HTTP versions between client and HAProxy, and between HAProxy and gateway.
const WAYS = [
  ['1.1', 'h2'],
  ['2', 'h2'],
  ['2', 'h1'],
];

for (const [front, back] of WAYS) {
  test(`HAProxy takes WebSockets of HTTP/${front} on to the gateway as ${back}`, async (t) => {
    const { certificate, gateway, session } = await secure(t);
    const port = await startHaproxy(t, certificate, gateway.port, back);
    const origin = `https://localhost:${port}`;
    const url = `wss://localhost:${port}/connection/websocket`;
    let websocket;
    if (front === '2') {
      websocket = socketsOver(await connectHttp2(t, origin, certificate.authority));
    } else {
      websocket = class extends WebSocket {
        constructor(address, protocols) {
          super(address, protocols, { ca: certificate.authority });
        }
      };
    }
    const made = await connected(t, url, { websocket, ...as('ann') });
    const news = await subscribed(made, 'news:a');
    for (const number of numbers(1, 20)) await news.publish(number);
    await api(session, 'publish', { channel: 'news:a', data: 'y'.repeat(100_000) });
    await until('all of them', () => news.publications.length === 21);
    assert.deepEqual(offsetsOf(news), numbers(1, 21));
    const lost = next(made, 'connecting');
    const returned = next(news, 'subscribed');
    await api(session, 'disconnect', { client: made.context.client, disconnect: { code: 4000, reason: 'move' } });
    assert.equal((await lost).code, 4000);
    assert.equal((await returned).recovered, true);
  });
}

// Starts an HAProxy that accepts TLS, and speaks only `back` (h2 or h1) to the gateway, over TLS.
async function startHaproxy(t, certificate, target, back) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-haproxy-'));
  const port = await freePort();
  const file = join(directory, 'haproxy.cfg');
  const authority = `ca-file ${certificate.certificate} verifyhost localhost`;
  const alpn = back === 'h2' ? 'h2' : 'http/1.1';
  writeFileSync(file, `
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 60s
frontend clients
    bind 127.0.0.1:${port} ssl crt ${certificate.both} alpn h2,http/1.1
    default_backend gateway
backend gateway
    server gateway 127.0.0.1:${target} ssl ${authority} alpn ${alpn} ws ${back}
`);
  const child = spawn('haproxy', ['-f', file, '-db'], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (data) => (said += data));
  const gone = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', (error) => resolve((said += `${error.message}; apt-get install haproxy brings it`)));
  });
  process.on('exit', () => child.kill('SIGKILL'));
  t.after(async () => {
    child.kill('SIGKILL');
    await gone;
    rmSync(directory, { recursive: true, force: true });
  });
  await until('HAProxy listens', async () => {
    if (child.exitCode !== null) throw new Error(`HAProxy ended: ${said}`);
    return listens(port);
  });
  return port;
}

function listens(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
