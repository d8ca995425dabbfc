// Shared by the tests of the JavaScript library.

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

// Channels with history, with history on demand, without history, and private ones; for users and for anonymous clients.
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

// Starts `count` nodes that know each other, over a new Redis, `redis`. `more` is TOML for all of them.
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

// Creates a client of the official library that disconnects when the test ends.
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

// Subscribes, and records the subscription's events.
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

// Subscribes, and returns the error code of the refusal.
export async function refused(made, channel, options = {}) {
  const subscription = made.newSubscription(channel, options);
  const event = next(subscription, 'unsubscribed');
  subscription.subscribe();
  const { code } = await event;
  made.removeSubscription(subscription);
  return code;
}

// Returns the error code with which a promise of the library is rejected.
export const codeOf = (promise) =>
  promise.then(
    (answer) => {
      throw new Error(`this was not refused: ${JSON.stringify(answer)}`);
    },
    ({ code }) => code,
  );

// Opens a plain WebSocket that records its messages, for what the library hides.
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

// Returns the replies and pushes that a plain WebSocket received at the Centrifuge endpoint.
export const repliesOf = (socket) => socket.messages.join('\n').split('\n').filter(Boolean).map((line) => JSON.parse(line));
