// What the tests of the JavaScript library share.

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

import { startGateway } from '../../support/gateway.mjs';
import { startRedis } from '../../support/redis.mjs';
import { next, until } from '../../support/wait.mjs';

export { startGateway, API_KEY } from '../../support/gateway.mjs';
export { startBalancer } from '../../support/balancer.mjs';
export { startRelay } from '../../support/relay.mjs';
export { startRedis } from '../../support/redis.mjs';
export { SECRET, inSeconds, token } from '../../support/token.mjs';
export { next, until } from '../../support/wait.mjs';
export { WebSocket };

// A channel that keeps history, one that offers it on demand, one without, and a private one; for users and for
// anonymous clients.
export const CONFIG = `
[node]
name = "test-node"
[auth]
hmac_secret = "a secret of at least thirty-two bytes"
allow_anonymous = true
[namespaces.news]
history_size = 10
history_ttl_s = 300
force_recovery = true
presence = true
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_history = true
allow_presence = true
[namespaces.quiet]
history_size = 10
history_ttl_s = 300
allow_recovery = true
allow_subscribe = true
allow_subscribe_anonymous = true
[namespaces.plain]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
allow_publish_for_client = true
[namespaces.shut]
`;

// So many nodes over a Redis of their own, `redis`, that know each other. `more` is TOML for all of them.
export async function startNodes(t, count, more = '') {
  const redis = await startRedis(t);
  const config = `${CONFIG}\n[broker]\nkind = "redis"\n[redis]\nurl = "${redis.url}"\n${more}`;
  const starting = Array.from({ length: count }, (_, index) =>
    startGateway(t, { config: config.replace('test-node', `node-${index + 1}`) }),
  );
  const nodes = await Promise.all(starting);
  for (const node of nodes) {
    await until('all nodes are known', async () => (await node.api('info')).nodes.length === count);
    await until('the node is ready', () => node.ready());
  }
  return Object.assign(nodes, { redis });
}

// A client of the official library that is gone when the test is over.
export function client(t, url, options = {}) {
  const made = new Centrifuge(url, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  });
  // The library reports every failed attempt here; without a listener it prints them.
  made.on('error', () => {});
  t.after(() => made.disconnect());
  return made;
}

export async function connected(t, url, options = {}) {
  const made = client(t, url, options);
  const event = next(made, 'connected');
  made.connect();
  made.context = await event;
  return made;
}

// Subscribes, and keeps everything that happens from then on.
export async function subscribed(made, channel, options = {}) {
  const subscription = made.newSubscription(channel, options);
  watch(subscription);
  const event = next(subscription, 'subscribed');
  subscription.subscribe();
  subscription.context = await event;
  return subscription;
}

export function watch(subscription) {
  subscription.publications = [];
  subscription.on('publication', (publication) => subscription.publications.push(publication));
  return subscription;
}

export const dataOf = (subscription) => subscription.publications.map(({ data }) => data);
export const offsetsOf = (subscription) => subscription.publications.map(({ offset }) => offset);

// How the subscription ended: its error code.
export async function refused(made, channel, options = {}) {
  const subscription = made.newSubscription(channel, options);
  const event = next(subscription, 'unsubscribed');
  subscription.subscribe();
  const { code } = await event;
  made.removeSubscription(subscription);
  return code;
}

// The code of the error that a promise of the library ends with.
export const codeOf = (promise) =>
  promise.then(
    (answer) => {
      throw new Error(`this was not refused: ${JSON.stringify(answer)}`);
    },
    ({ code }) => code,
  );

// A WebSocket that counts and keeps what it is told, for what the library hides.
export async function bare(t, url, protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, options);
  t.after(() => socket.terminate());
  socket.messages = [];
  socket.on('message', (data, isBinary) => socket.messages.push(isBinary ? data : String(data)));
  socket.closed = new Promise((resolve) => {
    socket.once('close', (code, reason) => resolve({ code, reason: String(reason) }));
  });
  const refusal = new Promise((resolve) => {
    socket.once('unexpected-response', (_, response) => resolve(response.statusCode));
  });
  socket.on('error', () => {});
  socket.status = await Promise.race([refusal, next(socket, 'open').then(() => 101)]);
  return socket;
}

// What a bare client of the Centrifuge endpoint was told, one reply an element.
export const repliesOf = (socket) => socket.messages.join('\n').split('\n').filter(Boolean).map((line) => JSON.parse(line));
