// A server on `ws`, the usual WebSocket library of Node.js: a set of sockets for each channel, and send() to each.
// Usage: node ws.js PORT
const http = require('http');
const { WebSocketServer, WebSocket } = require('ws');

const channels = new Map();

const server = http.createServer((request, response) => {
  const channel = request.url.slice('/publish/'.length);
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    response.end('{}');
    // Bytes, because a string would be encoded again for every socket.
    const body = Buffer.concat(parts);
    for (const socket of channels.get(channel) ?? []) {
      if (socket.readyState === WebSocket.OPEN) socket.send(body, { binary: false });
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
