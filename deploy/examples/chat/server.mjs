// The backend of the chat: it identifies users, and accepts, checks and publishes messages. It stores nothing: messages are
// in the history of the channels, and the users that are online in their presence.
//
// Needs Node 18 or later, and no packages except the client library that it serves to browsers.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const settings = {
  port: Number(process.env.PORT ?? 3000),
  secret: process.env.TOKEN_SECRET ?? 'change this secret of the chat example',
  // The URLs of gateway nodes, for this server and for browsers. A load balancer in front of several nodes counts as one.
  gateways: (process.env.GATEWAYS ?? 'http://127.0.0.1:8000').split(','),
  apiKey: process.env.GATEWAY_API_KEY ?? 'change-this-key-of-the-chat-example',
};

const ROOMS = ['general', 'random'];
const TOKEN_SECONDS = 600;
const TEXT_MAX = 2_000;
const BODY_BYTES_MAX = 16 * 1024;
const MENTIONS_MAX = 10;
const API_TIMEOUT_MS = 3_000;
// The name is part of channel names, so it must not contain their separators.
const NAME = /^[a-z0-9_-]{1,24}$/;
const ID = /^[a-zA-Z0-9-]{8,64}$/;

const files = {
  '/': ['page/index.html', 'text/html; charset=utf-8'],
  '/chat.js': ['page/chat.js', 'text/javascript; charset=utf-8'],
  '/chat.css': ['page/chat.css', 'text/css; charset=utf-8'],
  '/centrifuge.js': ['node_modules/centrifuge/dist/centrifuge.js', 'text/javascript; charset=utf-8'],
};

// ---- users ----

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = (text) => createHmac('sha256', settings.secret).update(text).digest('base64url');

// A connection token. It also identifies the user to this server.
function tokenFor(user) {
  const claims = { sub: user, info: { name: user }, exp: Math.floor(Date.now() / 1000) + TOKEN_SECONDS };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${signed}.${sign(signed)}`;
}

function userOf(request) {
  const token = /^Bearer (\S+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '';
  const [header, claims, signature] = token.split('.');
  const expected = Buffer.from(sign(`${header}.${claims}`));
  const given = Buffer.from(signature ?? '');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw refusal(401, 'sign in first');
  const { sub, exp } = JSON.parse(Buffer.from(claims, 'base64url').toString());
  if (exp * 1000 < Date.now()) throw refusal(401, 'sign in again');
  return sub;
}

// ---- messages ----

const directChannel = (one, other) => `direct:#${[one, other].sort().join(',')}`;
const personalChannel = (user) => `personal:#${user}`;

// `to` is a room ("general") or a person ("@bob").
async function say(user, { to, text, id }) {
  if (typeof text !== 'string' || !text.trim() || text.length > TEXT_MAX) throw refusal(400, 'say something shorter');
  if (typeof id !== 'string' || !ID.test(id)) throw refusal(400, 'a message has an id of 8 to 64 letters and digits');
  const message = { id, from: user, text, at: Date.now() };
  const person = /^@(.+)$/.exec(String(to))?.[1];
  if (person !== undefined) {
    if (!NAME.test(person) || person === user) throw refusal(400, 'there is nobody of that name');
    await publish(directChannel(user, person), message, message.id);
    // This tells both users of the conversation on all of their devices, now and when they reconnect.
    await publish(personalChannel(person), { kind: 'direct', with: user, from: user, text }, `to ${message.id}`);
    await publish(personalChannel(user), { kind: 'direct', with: person, from: user, text }, `of ${message.id}`);
    return;
  }
  if (!ROOMS.includes(to)) throw refusal(404, 'there is no such room');
  await publish(`room:${to}`, message, message.id);
  const named = new Set([...text.matchAll(/@([a-z0-9_-]{1,24})/g)].map((match) => match[1]));
  named.delete(user);
  for (const name of [...named].slice(0, MENTIONS_MAX)) {
    await publish(personalChannel(name), { kind: 'mention', from: user, room: to, text }, `${name} ${message.id}`);
  }
}

// Tries one node after the other. A request without an answer may have published: with the idempotency key, neither the next
// attempt nor a retry of the page publishes the message again.
async function publish(channel, data, key) {
  const body = JSON.stringify({ channel, data, idempotency_key: `${data.from} ${key}` });
  let failed;
  for (const gateway of settings.gateways) {
    try {
      const response = await fetch(`${gateway}/api/publish`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'X-API-Key': settings.apiKey },
        body,
        signal: AbortSignal.timeout(API_TIMEOUT_MS),
      });
      const answer = response.ok ? await response.json() : { error: { message: `status ${response.status}` } };
      if (!answer.error) return;
      failed = answer.error.message;
    } catch (error) {
      failed = error.message;
    }
  }
  console.error(`nothing was published in ${channel}: ${failed}`);
  throw refusal(502, 'that was not sent: try again');
}

// ---- the web server ----

const refusal = (status, message) => Object.assign(new Error(message), { status });

async function bodyOf(request) {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) {
    body += chunk;
    if (body.length > BODY_BYTES_MAX) throw refusal(413, 'that is too long');
  }
  try {
    return JSON.parse(body);
  } catch {
    throw refusal(400, 'that is no JSON');
  }
}

// The gateways for a browser, beginning with another one each time.
let signedIn = 0;
function gatewaysForNext() {
  const first = signedIn++ % settings.gateways.length;
  const urls = settings.gateways.map((gateway) => `${gateway.replace(/^http/, 'ws')}/connection/websocket`);
  return [...urls.slice(first), ...urls.slice(0, first)];
}

async function answer(request) {
  const { pathname } = new URL(request.url, 'http://chat');
  if (request.method === 'GET' && files[pathname]) {
    const [file, type] = files[pathname];
    return { type, body: readFileSync(fileURLToPath(new URL(file, import.meta.url))) };
  }
  const json = (value) => ({ type: 'application/json', body: JSON.stringify(value) });
  if (request.method === 'POST' && pathname === '/session') {
    const { name } = await bodyOf(request);
    if (!NAME.test(name ?? '')) throw refusal(400, 'a name has 1 to 24 of a-z, 0-9, _ and -');
    return json({ user: name, rooms: ROOMS, gateways: gatewaysForNext(), token: tokenFor(name) });
  }
  if (request.method === 'POST' && pathname === '/token') return json({ token: tokenFor(userOf(request)) });
  if (request.method === 'POST' && pathname === '/messages') {
    await say(userOf(request), await bodyOf(request));
    return json({});
  }
  throw refusal(404, 'nothing is here');
}

const server = createServer(async (request, response) => {
  try {
    const { type, body } = await answer(request);
    response.writeHead(200, { 'Content-Type': type, 'Cache-Control': 'no-store' }).end(body);
  } catch (error) {
    if (!error.status) console.error(error);
    response.writeHead(error.status ?? 500, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({ error: error.status ? error.message : 'something went wrong here' }));
  }
});

server.listen(settings.port, '127.0.0.1', () => {
  console.log(`chat: http://127.0.0.1:${server.address().port}/`);
});
