// A guest book: serves its page, authorizes guests, and triggers an event for each entry. It uses no packages: Pusher's
// server libraries only make two kinds of signatures.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const APP = { id: '1', key: 'guestbook-key', secret: 'a secret for trying out' };
const GATEWAY = process.env.GATEWAY ?? 'http://127.0.0.1:8000';
const PORT = Number(process.env.PORT ?? 3000);

const sign = (text) => createHmac('sha256', APP.secret).update(text).digest('hex');

// POST /apps/{id}/events, as `pusher.trigger` sends it.
async function trigger(channel, name, data) {
  const body = JSON.stringify({ name, channel, data: JSON.stringify(data) });
  const path = `/apps/${APP.id}/events`;
  const md5 = createHash('md5').update(body).digest('hex');
  const now = Math.floor(Date.now() / 1000);
  const query = `auth_key=${APP.key}&auth_timestamp=${now}&auth_version=1.0&body_md5=${md5}`;
  const url = `${GATEWAY}${path}?${query}&auth_signature=${sign(`POST\n${path}\n${query}`)}`;
  const response = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
}

// Accepts any name. A real application checks its session here.
function authorize(form) {
  const [socket, channel, name] = ['socket_id', 'channel_name', 'name'].map((key) => form.get(key) ?? '');
  if (!/^\d+\.\d+$/.test(socket) || channel !== 'presence-guests' || !/^[\w -]{1,40}$/.test(name)) return null;
  const member = JSON.stringify({ user_id: name, user_info: { name } });
  return { auth: `${APP.key}:${sign(`${socket}:${channel}:${member}`)}`, channel_data: member };
}

// Verifies and reads the webhooks of the gateway, as `pusher.webhook(…)` does.
function told(headers, body) {
  const [given, right] = [String(headers['x-pusher-signature'] ?? ''), sign(body)];
  const holds = headers['x-pusher-key'] === APP.key && given.length === right.length;
  if (!holds || !timingSafeEqual(Buffer.from(given), Buffer.from(right))) return false;
  for (const { name, user_id: guest } of JSON.parse(body).events) {
    console.log(name === 'member_added' ? `${guest} has come` : `${guest} has gone`);
  }
  return true;
}

async function read(request, max) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > max) throw new Error('too long');
  }
  return Buffer.concat(chunks).toString();
}

const server = createServer(async (request, response) => {
  const answer = (status, body = '', type = 'application/json') =>
    response.writeHead(status, { 'Content-Type': type }).end(typeof body === 'string' ? body : JSON.stringify(body));
  const { pathname } = new URL(request.url, GATEWAY);
  try {
    if (request.method === 'GET' && pathname === '/') {
      return answer(200, readFileSync(new URL('page/index.html', import.meta.url), 'utf8'), 'text/html; charset=utf-8');
    }
    if (request.method === 'GET' && pathname === '/gateway') return answer(200, { url: GATEWAY, key: APP.key });
    if (request.method !== 'POST') return answer(404);
    if (pathname === '/pusher/webhook') return answer(told(request.headers, await read(request, 1_000_000)) ? 204 : 401);
    const form = new URLSearchParams(await read(request, 10_000));
    if (pathname === '/pusher/auth') {
      const authorized = authorize(form);
      return authorized ? answer(200, authorized) : answer(403);
    }
    if (pathname === '/write') {
      await trigger('guestbook', 'written', { name: form.get('name') ?? '', text: form.get('text') ?? '' });
      return answer(204);
    }
    return answer(404);
  } catch (error) {
    console.error(error.message);
    return answer(500);
  }
});
server.listen(PORT, '127.0.0.1', () => console.log(`the guest book is at http://127.0.0.1:${PORT}/`));
