// A load balancer that sends each HTTP request to the next server, regardless of the client.

import http from 'node:http';
import net from 'node:net';

// With `webSockets`, it also forwards WebSockets, each to the next server.
export async function startBalancer(t, ports, { webSockets = false } = {}) {
  const balancer = new Balancer(ports, webSockets);
  await balancer.listen();
  t.after(() => balancer.close());
  return balancer;
}

class Balancer {
  #turn = 0;
  #server = http.createServer((request, response) => this.#serve(request, response));

  #tunnels = new Set();

  constructor(ports, webSockets) {
    this.ports = ports;
    if (webSockets) this.#server.on('upgrade', (request, socket, head) => this.#tunnel(request, socket, head));
    // For each request, its path, the server that answered, and the status.
    this.requests = [];
  }

  listen() {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', () => {
        this.port = this.#server.address().port;
        resolve();
      });
    });
  }

  http(path) {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  of(path) {
    return this.requests.filter((request) => request.path === path);
  }

  close() {
    this.#server.closeAllConnections();
    this.#tunnels.forEach((socket) => socket.destroy());
    return new Promise((resolve) => this.#server.close(resolve));
  }

  #tunnel(request, socket, head, attempts = this.ports.length) {
    const server = net.connect(this.#next(), '127.0.0.1');
    server.once('connect', () => {
      const lines = [`${request.method} ${request.url} HTTP/1.1`];
      for (let at = 0; at < request.rawHeaders.length; at += 2) lines.push(request.rawHeaders.slice(at, at + 2).join(': '));
      server.write(`${lines.join('\r\n')}\r\n\r\n`);
      server.write(head);
      server.pipe(socket).pipe(server);
    });
    for (const [one, other] of [[socket, server], [server, socket]]) {
      this.#tunnels.add(one);
      one.on('error', () => {});
      one.once('close', () => {
        this.#tunnels.delete(one);
        const refused = one === server && one.connecting === false && one.bytesWritten === 0 && attempts > 1;
        if (refused) this.#tunnel(request, socket, head, attempts - 1);
        else other.destroy();
      });
    }
  }

  #next() {
    return this.ports[(this.#turn += 1) % this.ports.length];
  }

  async #serve(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    this.#forward(request, response, body, this.ports.length);
  }

  // A server that cannot be reached is skipped, as a health check would do.
  #forward(request, response, body, attempts) {
    const port = this.#next();
    const { method, headers, url } = request;
    const forwarded = http.request({ host: '127.0.0.1', port, method, headers, path: url, agent: false });
    forwarded.once('response', (answer) => {
      this.requests.push({ path: url.split('?')[0], port, status: answer.statusCode });
      response.writeHead(answer.statusCode, answer.headers);
      response.flushHeaders();
      answer.on('error', () => response.destroy());
      answer.on('close', () => answer.complete || response.destroy());
      answer.pipe(response);
    });
    forwarded.once('error', () => {
      if (response.headersSent) return response.destroy();
      if (attempts > 1) return this.#forward(request, response, body, attempts - 1);
      response.writeHead(502).end();
    });
    response.once('close', () => forwarded.destroy());
    forwarded.end(body);
  }
}
