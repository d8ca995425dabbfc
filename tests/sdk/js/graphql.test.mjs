// Tests unmodified GraphQL clients: over WebSockets with both subprotocols, and over event streams in both modes.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { inspect } from 'node:util';

import { ApolloClient, InMemoryCache, gql } from '@apollo/client/core';
import { GraphQLWsLink } from '@apollo/client/link/subscriptions';
import { Client, subscriptionExchange } from '@urql/core';
import { createClient as createSseClient } from 'graphql-sse';
import { createClient } from 'graphql-ws';
import { SubscriptionClient } from 'subscriptions-transport-ws';

import { CONFIG, WebSocket, inSeconds, startGateway, startNodes, startRelay, token, until } from './support.mjs';

const FIELDS = `
[graphql]
enabled = true
[graphql.subscriptions.message]
channel = "news:{topic}"
[graphql.subscriptions.shut]
channel = "shut:{name}"
`;
const ON = { config: CONFIG + FIELDS };
const QUERY = 'subscription On($topic: String!) { message(topic: $topic) }';
const SPORT = { query: QUERY, variables: { topic: 'sport' } };
const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

const socketOf = (gateway) => gateway.url.replace('/connection/websocket', '/graphql');
// Apollo's link looks for WebSocket where browsers have it.
globalThis.WebSocket ??= WebSocket;

// Returns the received values without the probes of `hear`.
const PROBE = 'is anybody there?';
const values = (told) => told.results.map(({ data }) => data?.message).filter((value) => value !== PROBE);

// Creates a sink that records what it receives.
function sink() {
  const told = { results: [], errors: [], completed: 0 };
  told.next = (result) => told.results.push(result);
  told.error = (error) => told.errors.push(error);
  told.complete = () => (told.completed += 1);
  return told;
}

function socketClient(t, url, options = {}) {
  const client = createClient({ url, webSocketImpl: WebSocket, retryWait: async () => {}, ...options });
  // Rejects if the client is reconnecting to a stopped gateway when the test ends.
  t.after(() => Promise.resolve(client.dispose()).catch(() => {}));
  return client;
}

// Each client subscribes to a topic and passes results to a sink.
const CLIENTS = {
  'graphql-ws': (t, gateway) => {
    const client = socketClient(t, socketOf(gateway));
    return (request, told) => client.subscribe(request, told);
  },
  'subscriptions-transport-ws': (t, gateway) => {
    const client = new SubscriptionClient(socketOf(gateway), { reconnect: false }, WebSocket);
    t.after(() => client.close());
    return (request, told) => {
      const { unsubscribe } = client.request(request).subscribe(told);
      return unsubscribe;
    };
  },
  'graphql-sse, a stream each': (t, gateway) => sseClient(t, gateway, false),
  'graphql-sse, one stream': (t, gateway) => sseClient(t, gateway, true),
  '@apollo/client': (t, gateway) => {
    const link = new GraphQLWsLink(socketClient(t, socketOf(gateway)));
    const client = new ApolloClient({ link, cache: new InMemoryCache() });
    t.after(() => client.stop());
    return ({ query, variables }, told) => {
      const next = ({ data, error }) => (error ? told.error(error.errors ?? error) : told.next({ data }));
      const subscription = client.subscribe({ query: gql(query), variables }).subscribe({ ...told, next });
      return () => subscription.unsubscribe();
    };
  },
  '@urql/core': (t, gateway) => {
    const inner = socketClient(t, socketOf(gateway));
    const forward = ({ query, variables }) => ({
      subscribe: (told) => ({ unsubscribe: inner.subscribe({ query, variables }, told) }),
    });
    const exchanges = [subscriptionExchange({ forwardSubscription: forward })];
    const client = new Client({ url: gateway.http('/graphql'), exchanges, preferGetMethod: false });
    return ({ query, variables }, told) => {
      const { unsubscribe } = client.subscription(query, variables).subscribe(({ data, error }) => {
        if (error) told.error(error.graphQLErrors);
        else told.next({ data });
      });
      return unsubscribe;
    };
  },
};

function sseClient(t, gateway, singleConnection) {
  const client = createSseClient({ url: gateway.http('/graphql'), singleConnection, retryAttempts: 0 });
  t.after(() => client.dispose());
  return (request, told) => client.subscribe(request, told);
}

// Publishes probes until all sinks have a result or an error: GraphQL does not acknowledge subscriptions.
async function hear(gateway, channel, ...all) {
  await until(`${channel} is heard`, async () => {
    await gateway.publish(channel, PROBE);
    return all.every(({ results, errors }) => results.length > 0 || errors.length > 0);
  });
}

const readers = async (gateway, channel) => (await gateway.api('presence_stats', { channel })).num_clients;

for (const [name, make] of Object.entries(CLIENTS)) {
  test(`${name} is told what is published, of each operation its own, until it has had enough`, async (t) => {
    const gateway = await startGateway(t, ON);
    const subscribe = make(t, gateway);
    const [sport, news] = [sink(), sink()];
    const stop = subscribe(SPORT, sport);
    subscribe({ query: QUERY, variables: { topic: 'news' } }, news);
    await hear(gateway, 'news:sport', sport);
    await hear(gateway, 'news:news', news);
    for (const number of numbers(1, 5)) await gateway.publish('news:sport', { number });
    await gateway.publish('news:news', 'text');
    await until('five results', () => values(sport).length === 5);
    await until('one result', () => values(news).length === 1);
    assert.deepEqual(values(sport), numbers(1, 5).map((number) => ({ number })));
    assert.deepEqual(values(news), ['text']);
    stop();
    await until('the channel is left', async () => (await readers(gateway, 'news:sport')) === 0);
    await gateway.publish('news:news', 'more');
    await until('the other goes on', () => values(news).length === 2);
    assert.deepEqual([values(sport).length, sport.errors, news.errors], [5, [], []]);
  });

  test(`${name} is told why an operation is refused, and goes on with others`, async (t) => {
    const gateway = await startGateway(t, ON);
    const subscribe = make(t, gateway);
    const [refused, sport] = [sink(), sink()];
    subscribe(SPORT, sport);
    await hear(gateway, 'news:sport', sport);
    subscribe({ query: 'subscription { shut(name: "a") }' }, refused);
    const told = () => inspect([refused.errors, refused.results], { depth: 9 });
    await until('the refusal', () => told().includes('permission denied'));
    await gateway.publish('news:sport', 1);
    await until('the other goes on', () => values(sport).length === 1);
  });
}

test('graphql-ws asks for the schema, and for what it selects of payloads', async (t) => {
  const file = new URL(`schema-${process.pid}.graphql`, 'file:///tmp/').pathname;
  writeFileSync(file, 'type Subscription { message(topic: String!): Message } type Message { id: ID! text: String }');
  const env = { TIDEGATE_GRAPHQL__SCHEMA_FILE: file };
  const gateway = await startGateway(t, { config: ON.config.replace(/\[graphql.subscriptions.shut\][^[]*/, ''), env });
  const client = socketClient(t, socketOf(gateway));
  const [asked, selected] = [sink(), sink()];
  client.subscribe({ query: '{ __schema { subscriptionType { fields { name type { name } } } } }' }, asked);
  await until('it is over', () => asked.completed === 1);
  const { fields } = asked.results[0].data.__schema.subscriptionType;
  assert.deepEqual(fields, [{ name: 'message', type: { name: 'Message' } }]);
  client.subscribe({ query: 'subscription { message(topic: "a") { t: text __typename } }' }, selected);
  await until('a result', async () => {
    await gateway.publish('news:a', { id: 1, text: 'hi', secret: 2 });
    return selected.results.length > 0;
  });
  assert.deepEqual(values(selected)[0], { t: 'hi', __typename: 'Message' });
});

test('graphql-ws says who it is, and comes back with another token where one is refused', async (t) => {
  const gateway = await startGateway(t, ON);
  const tokens = ['wrong', token({ sub: 'ann', exp: inSeconds(60) })];
  const closes = [];
  const client = socketClient(t, socketOf(gateway), {
    connectionParams: () => ({ token: tokens.shift() }),
    on: { closed: ({ code }) => closes.push(code) },
  });
  const told = sink();
  client.subscribe(SPORT, told);
  await until('it is read', async () => (await readers(gateway, 'news:sport')) === 1);
  assert.deepEqual(closes, [4403]);
  const { presence } = await gateway.api('presence', { channel: 'news:sport' });
  assert.equal(Object.values(presence)[0].user, 'ann');
});

test('graphql-ws does not come back when it is sent away, and does after a drain', async (t) => {
  const gateway = await startGateway(t, ON);
  const told = sink();
  socketClient(t, socketOf(gateway)).subscribe(SPORT, told);
  await until('it is read', async () => (await readers(gateway, 'news:sport')) === 1);
  const [client] = Object.keys((await gateway.api('presence', { channel: 'news:sport' })).presence);
  await gateway.api('disconnect', { user: '', client });
  await until('its end', () => told.errors.length === 1);
  assert.equal(told.errors[0].code, 4401);

  const relayed = sink();
  const relay = await startRelay(t, gateway.port);
  const closes = [];
  const url = `ws://127.0.0.1:${relay.port}/graphql`;
  socketClient(t, url, { retryAttempts: 0, on: { closed: ({ code }) => closes.push(code) } }).subscribe(SPORT, relayed);
  await until('it is read', async () => (await readers(gateway, 'news:sport')) === 1);
  await gateway.stop();
  await until('its end', () => closes.length === 1);
  assert.deepEqual(closes, [1012]);
});

test('the demo has the ticker and a chat for graphql-ws', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const client = socketClient(t, socketOf(gateway));
  const [prices, messages] = [sink(), sink()];
  client.subscribe({ query: 'subscription { price(symbol: "AAPL") }' }, prices);
  client.subscribe({ query: 'subscription { message(room: "tea") }' }, messages);
  await until('two prices', () => prices.results.length >= 2);
  for (const { data } of prices.results) assert.deepEqual([data.price.symbol, typeof data.price.close], ['AAPL', 'number']);
  await hear(gateway, 'chat:tea', messages);
  await gateway.publish('chat:tea', { text: 'hello' });
  await until('the message', () => values(messages).length === 1);
  assert.deepEqual([values(messages), prices.errors, messages.errors], [[{ text: 'hello' }], [], []]);
});

test('what is published by HTTP at any of three nodes reaches operations at all of them in one order', async (t) => {
  const nodes = await startNodes(t, 3, FIELDS);
  const told = nodes.map((node) => {
    const one = sink();
    socketClient(t, socketOf(node)).subscribe(SPORT, one);
    return one;
  });
  await hear(nodes[0], 'news:sport', ...told);
  for (const number of numbers(1, 30)) await nodes[number % 3].publish('news:sport', number);
  for (const one of told) await until('thirty results', () => values(one).length === 30);
  for (const one of told) assert.deepEqual(values(one), numbers(1, 30));
});

test('when a node is killed graphql-ws goes on at another, from where it was', async (t) => {
  const nodes = await startNodes(t, 2, FIELDS);
  const relay = await startRelay(t, nodes[0].port);
  const extensions = { tidegate: { positions: true } };
  const told = sink();
  told.next = (result) => {
    told.results.push(result);
    // When it reconnects, the library sends this object again, with its values at that time.
    extensions.tidegate = { recover: result.extensions.tidegate.position };
  };
  const url = `ws://127.0.0.1:${relay.port}/graphql`;
  const client = socketClient(t, url, { retryAttempts: 1_000, shouldRetry: () => true });
  client.subscribe({ ...SPORT, extensions }, told);
  await hear(nodes[1], 'news:sport', told);
  for (const number of numbers(1, 3)) await nodes[1].publish('news:sport', number);
  await until('three results', () => values(told).length === 3);
  relay.target = nodes[1].port;
  await nodes[0].kill();
  for (const number of numbers(4, 8)) await nodes[1].publish('news:sport', number);
  await until('all results', () => values(told).length >= 8);
  await nodes[1].publish('news:sport', 9);
  await until('the next', () => values(told).length >= 9);
  assert.deepEqual(values(told), numbers(1, 9));
  assert.deepEqual(told.errors, []);
});
