// A page of orders. The server writes each change of an order only to a Redis stream; the gateway reads the stream and
// publishes the change. Needs only Node and Redis. The gateway need not run when a change is written.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.GATEWAY ?? 'http://127.0.0.1:8000';
const REDIS = new URL(process.env.REDIS ?? 'redis://127.0.0.1:6379');
const STREAM = 'shop:orders';
const KEPT = 10_000;
const TIMEOUT_MS = 2_000;
const PAGE = readFileSync(new URL('page.html', import.meta.url), 'utf8');

const STATES = ['ordered', 'paid', 'sent', 'delivered'];
const orders = new Map([1, 2, 3].map((number) => [String(number), 0]));

const known = () => [...orders].map(([order, state]) => ({ order, state: STATES[state] }));

// Sends one command to Redis, on a connection of its own. A real application uses a library with a connection pool.
async function ask(...words) {
  const socket = connect(Number(REDIS.port || 6379), REDIS.hostname);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('Redis does not answer')));
  socket.once('end', () => socket.destroy(new Error('Redis has hung up')));
  try {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    socket.write(`*${words.length}\r\n${parts.join('')}`);
    const [answer] = await once(socket, 'data');
    if (answer[0] === '-'.charCodeAt(0)) throw new Error(`Redis refuses: ${answer}`);
  } finally {
    socket.destroy();
  }
}

// The fields of a publication: docs/feeds.md lists all of them.
async function changed(order, state) {
  const data = JSON.stringify({ order, state });
  await ask('XADD', STREAM, 'MAXLEN', '~', String(KEPT), '*', 'channel', `orders:${order}`, 'data', data);
}

async function advance(order) {
  const state = orders.get(order);
  if (state === undefined) return 404;
  if (state + 1 === STATES.length) return 409;
  await changed(order, STATES[state + 1]);
  orders.set(order, state + 1);
  return 204;
}

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, 'http://page');
  try {
    if (request.method === 'GET' && pathname === '/') {
      response.setHeader('Content-Type', 'text/html; charset=utf-8');
      response.end(PAGE.replace('GATEWAY', GATEWAY).replace('ORDERS', JSON.stringify(known())));
    } else if (request.method === 'GET' && pathname === '/orders') {
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify(known()));
    } else if (request.method === 'POST' && pathname.startsWith('/advance/')) {
      response.writeHead(await advance(decodeURIComponent(pathname.slice('/advance/'.length)))).end();
    } else {
      response.writeHead(404).end();
    }
  } catch (error) {
    console.error(error.message);
    response.writeHead(502).end();
  }
});

server.listen(PORT, '127.0.0.1', () => console.log(`the page is at http://127.0.0.1:${PORT}/`));
