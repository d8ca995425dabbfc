// A page of books in stock. A reader who opens it gets a cookie for the hub and follows all books. A change is an update of
// one book; the reservations of a reader are private to that reader. Needs only Node.

import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.GATEWAY ?? 'http://127.0.0.1:8000';
const SECRET = process.env.TOKEN_SECRET ?? 'change this secret of the updates example';
const HUB = `${GATEWAY}/.well-known/mercure`;
const PAGE = readFileSync(new URL('page.html', import.meta.url));

const stock = { 1984: 3, Dune: 2, Emma: 5 };

const encode = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');

function token(claims) {
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

const inAnHour = () => Math.floor(Date.now() / 1000) + 3600;

// The topics of one update. A reader who may read one of them may read the update.
async function publish(topics, data, isPrivate = false) {
  const form = new URLSearchParams(topics.map((topic) => ['topic', topic]));
  form.set('data', JSON.stringify(data));
  if (isPrivate) form.set('private', 'on');
  const authorization = `Bearer ${token({ sub: 'server', exp: inAnHour(), mercure: { publish: ['*'] } })}`;
  const response = await fetch(HUB, { method: 'POST', body: form, headers: { authorization } });
  if (response.status !== 200) throw new Error(`the hub answers ${response.status}: ${await response.text()}`);
}

async function reserve(book, reader) {
  if (!(stock[book] > 0)) return 409;
  stock[book] -= 1;
  await publish([`/books/${book}`], { book, left: stock[book] });
  await publish([`/books/${book}`, `/readers/${reader}`], { book, reserved: true }, true);
  return 204;
}

// Readers need no password here. A real application would ask for one.
const nameOf = ({ headers }) => /(?:^|; )reader=(\w+)/.exec(headers.cookie ?? '')?.[1];

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://page');
  try {
    if (request.method === 'GET' && pathname === '/') {
      const reader = /^\w{1,32}$/.exec(searchParams.get('reader') ?? '')?.[0] ?? 'somebody';
      const own = token({ sub: reader, exp: inAnHour(), mercure: { subscribe: [`/readers/${reader}`] } });
      // Over HTTPS, add Secure.
      const cookie = (name, value) => `${name}=${value}; Path=/; HttpOnly; SameSite=Strict`;
      response.setHeader('Set-Cookie', [cookie('mercureAuthorization', own), cookie('reader', reader)]);
      response.setHeader('Content-Type', 'text/html; charset=utf-8');
      response.setHeader('Link', `<${HUB}>; rel="mercure"`);
      response.end(PAGE.toString().replace('HUB', HUB).replace('STOCK', JSON.stringify(stock)));
    } else if (request.method === 'POST' && pathname.startsWith('/reserve/')) {
      const reader = nameOf(request);
      response.writeHead(reader ? await reserve(decodeURIComponent(pathname.slice(9)), reader) : 401).end();
    } else {
      response.writeHead(404).end();
    }
  } catch (error) {
    console.error(error.message);
    response.writeHead(502).end();
  }
});

server.listen(PORT, '127.0.0.1', () => console.log(`the page is at http://127.0.0.1:${PORT}/?reader=ann`));
