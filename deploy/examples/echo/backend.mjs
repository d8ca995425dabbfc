// Answers every message with the same message.
import { createServer } from 'node:http';

createServer((request, response) => {
  response.setHeader('Content-Type', request.headers['content-type']);
  request.pipe(response);
}).listen(process.env.PORT ?? 3000, '127.0.0.1');
