// A server on Socket.IO: a room for each channel, and emit() to the room.
// Usage: node socketio.js PORT
const http = require('http');
const { Server } = require('socket.io');

const server = http.createServer((request, response) => {
  const channel = request.url.slice('/publish/'.length);
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (part) => (body += part));
  request.on('end', () => {
    response.end('{}');
    io.to(channel).emit('publication', JSON.parse(body));
  });
});

const io = new Server(server, { transports: ['websocket'] });
io.on('connection', (socket) => {
  socket.on('subscribe', (channel, done) => {
    socket.join(channel);
    done();
  });
});

server.listen(Number(process.argv[2]), '127.0.0.1');
