// In place of the handlers of a Socket.IO server: each function returns what the gateway is to do.
import { createServer } from 'node:http';

// An event with arguments, to all clients, or to those that `where` selects.
const emit = (event, args, where = {}) => ({ event, args, ...where });

const onConnect = ({ sid, data }) => {
  const name = data?.name;
  if (typeof name !== 'string' || !name) return { error: { code: 1001, message: 'say your name' } };
  return { result: { emit: [emit('welcome', [name], { to: 'sender' }), emit('user-connected', [sid, name], { to: 'others' })] } };
};

const handlers = {
  'chat message': ({ sid }, text) => ({ emit: [emit('chat message', [text, sid])], ack: [{ ok: true }] }),
  'join-room': ({ sid, rooms = [] }, room) =>
    rooms.length >= 3
      ? { ack: [{ ok: false, why: 'three rooms are enough' }] }
      : { join: [room], emit: [emit('user-joined', [sid], { rooms: [room], to: 'others' })], ack: [{ ok: true }] },
  'leave-room': ({ sid }, room) => ({ leave: [room], emit: [emit('user-left', [sid], { rooms: [room] })] }),
  message: ({ sid, rooms = [] }, room, text) =>
    rooms.includes(room) ? { emit: [emit('message', [sid, text], { rooms: [room], to: 'others' })] } : {},
  'private message': ({ sid }, to, text) => ({ emit: [emit('private message', [sid, text], { rooms: [to] })] }),
  bye: () => ({ disconnect: true }),
};

createServer(async (request, response) => {
  let body = '';
  for await (const part of request.setEncoding('utf8')) body += part;
  const asked = JSON.parse(body);
  const handled = () => {
    const handler = Object.hasOwn(handlers, asked.event) && handlers[asked.event];
    return handler ? { result: handler(asked, ...asked.args) } : { error: { code: 1000, message: 'no such event' } };
  };
  const answer = asked.type === 'connect' ? onConnect(asked) : handled();
  response.setHeader('Content-Type', 'application/json').end(JSON.stringify(answer));
}).listen(process.env.PORT ?? 3000, '127.0.0.1');
