// A load balancer that gives each HTTP request to the next of its servers, whoever sent the one before.

import http from 'node:http';

export async function startBalancer(t, ports) {
  const balancer = new Balancer(ports);
  await balancer.listen();
  t.after(() => balancer.close());
  return balancer;
}

class Balancer {
  #turn = 0;
  #server = http.createServer((request, response) => this.#serve(request, response));

  constructor(ports) {
    this.ports = ports;
    // What was asked: its path, the server that answered, and with which status.
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
    return new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    this.#forward(request, response, body, this.ports.length);
  }

  // A server that cannot be reached is left out, as it would be by its health.
  #forward(request, response, body, attempts) {
    const port = this.ports[(this.#turn += 1) % this.ports.length];
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
