// Publishes every message to all clients, with its sender.
import { createServer } from 'node:http';

const api = `${process.env.GATEWAY ?? 'http://127.0.0.1:8000'}/api/publish`;
const headers = { 'Content-Type': 'application/json', 'X-API-Key': 'change-this-key-of-the-broadcast-example' };

createServer(async (request, response) => {
  let text = '';
  for await (const part of request.setEncoding('utf8')) text += part;
  const data = { from: request.headers['tidegate-client'].slice(0, 8), text };
  const body = JSON.stringify({ channel: request.headers['tidegate-channel'], data });
  const published = await fetch(api, { method: 'POST', headers, body }).catch(() => ({ ok: false }));
  response.writeHead(published.ok ? 204 : 502).end();
}).listen(process.env.PORT ?? 3000, '127.0.0.1');
