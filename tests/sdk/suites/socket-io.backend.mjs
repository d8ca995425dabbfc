// The handlers that the test suite of the Socket.IO protocol expects.

import { createServer } from 'node:http';

function result({ type, event, args, binary, data }) {
  if (type === 'connect') return { emit: [{ event: 'auth', args: [data ?? {}], to: 'sender' }] };
  if (event === 'message') return { emit: [{ event: 'message-back', args, binary, to: 'sender' }] };
  if (event === 'message-with-ack') return { ack: args, ack_binary: binary };
  return {};
}

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ result: result(JSON.parse(Buffer.concat(chunks))) }));
}).listen(3001, '127.0.0.1');
