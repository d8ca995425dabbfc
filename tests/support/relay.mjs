// A TCP relay between a client and a gateway, which can cut or stall connections, or lead them elsewhere.

import net from 'node:net';

export async function startRelay(t, port) {
  const relay = new Relay(port);
  await relay.listen();
  t.after(() => relay.close());
  return relay;
}

class Relay {
  #pairs = new Set();
  #open = true;
  #server = net.createServer((client) => this.#connect(client));

  constructor(target) {
    this.target = target;
    this.accepted = 0;
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

  get url() {
    return `ws://127.0.0.1:${this.port}/connection/websocket`;
  }

  // Drops every connection, and any new one until it is restored.
  cut() {
    this.#open = false;
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  restore() {
    this.#open = true;
  }

  // Keeps connections open without forwarding anything, as a client experiences the loss of its network.
  stall() {
    for (const [client, server] of this.#pairs) {
      client.unpipe(server);
      server.unpipe(client);
    }
  }

  close() {
    this.cut();
    return new Promise((resolve) => this.#server.close(resolve));
  }

  #connect(client) {
    client.on('error', () => {});
    if (!this.#open) return client.destroy();
    this.accepted += 1;
    const server = net.connect(this.target, '127.0.0.1');
    const pair = [client, server];
    this.#pairs.add(pair);
    server.on('error', () => client.destroy());
    for (const [from, to] of [pair, [server, client]]) {
      from.pipe(to);
      from.on('close', () => {
        to.destroy();
        this.#pairs.delete(pair);
      });
    }
  }
}
