// A server on `ws`, the usual WebSocket library of Node.js: a set of sockets for each channel, and send() to each.
// Usage: node ws.js PORT
const http = require('http');
const { WebSocketServer, WebSocket } = require('ws');

const channels = new Map();

const server = http.createServer((request, response) => {
  const channel = request.url.slice('/publish/'.length);
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (part) => (body += part));
  request.on('end', () => {
    response.end('{}');
    for (const socket of channels.get(channel) ?? []) {
      if (socket.readyState === WebSocket.OPEN) socket.send(body);
    }
  });
});

new WebSocketServer({ server, perMessageDeflate: process.env.DEFLATE === '1' }).on('connection', (socket) => {
  socket.on('message', (message) => {
    const { subscribe } = JSON.parse(message);
    if (!channels.has(subscribe)) channels.set(subscribe, new Set());
    channels.get(subscribe).add(socket);
    socket.on('close', () => channels.get(subscribe).delete(socket));
    socket.send(JSON.stringify({ subscribed: subscribe }));
  });
});

server.listen(Number(process.argv[2]), '127.0.0.1');
