// Adds the room and the sender to each message, and refuses messages that are too long.
import { createServer } from 'node:http';

createServer(async (request, response) => {
  let body = '';
  for await (const part of request.setEncoding('utf8')) body += part;
  const { user, client, channel, b64data } = JSON.parse(body);
  const text = Buffer.from(b64data, 'base64').toString();
  const data = { room: channel.slice('room:'.length), from: user || `stranger-${client.slice(0, 4)}`, text };
  const answer = text.length > 500 ? { disconnect: { code: 4500, reason: 'too long' } } : { result: { data } };
  response.setHeader('Content-Type', 'application/json').end(JSON.stringify(answer));
}).listen(process.env.PORT ?? 3000, '127.0.0.1');
