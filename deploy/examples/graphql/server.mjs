// A tea house that takes orders, and publishes each change of an order. This server answers queries and mutations with the
// GraphQL library; the gateway, which has the same schema, serves subscriptions.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { GraphQLError, buildSchema, graphql } from 'graphql';

const PORT = Number(process.env.PORT ?? 3000);
const GATEWAY = process.env.GATEWAY ?? 'http://127.0.0.1:8000';
const API_KEY = process.env.GATEWAY_API_KEY ?? 'change-this-key-of-the-graphql-example';
const API_TIMEOUT_MS = 3_000;
const BODY_BYTES_MAX = 16 * 1024;
const ORDERS_MAX = 100;
const TEA_MAX = 40;

const file = (name) => readFileSync(new URL(name, import.meta.url), 'utf8');
const schema = buildSchema(file('schema.graphql'));
const files = {
  '/': [file('page.html').replace('SUBSCRIPTIONS', `${GATEWAY.replace(/^http/, 'ws')}/graphql`), 'text/html; charset=utf-8'],
  '/graphql-ws.js': [file('node_modules/graphql-ws/umd/graphql-ws.min.js'), 'text/javascript; charset=utf-8'],
};

// The orders of each shop, by their ids.
const shops = { green: new Map(), black: new Map() };

function ordersOf(shop) {
  if (!Object.hasOwn(shops, shop)) throw new GraphQLError('there is no such shop');
  return shops[shop];
}

async function api(method, params) {
  const response = await fetch(`${GATEWAY}/api/${method}`, {
    method: 'POST',
    headers: { 'X-API-Key': API_KEY, 'Content-Type': 'application/json' },
    body: JSON.stringify(params),
    signal: AbortSignal.timeout(API_TIMEOUT_MS),
  });
  const { result, error } = await response.json();
  if (error) throw new Error(`the gateway refuses to ${method}: ${error.message}`);
  return result;
}

async function changed(shop, order) {
  ordersOf(shop).set(order.id, order);
  await api('publish', { channel: `orders:${shop}`, data: order });
  return order;
}

const resolvers = {
  // Read the position first: changes made while the orders are read then come after it.
  async house({ shop }) {
    const orders = ordersOf(shop);
    const { epoch, offset } = await api('history', { channel: `orders:${shop}`, limit: 0 });
    return { orders: [...orders.values()], position: { epoch, offset } };
  },
  order({ shop, tea }) {
    const orders = ordersOf(shop);
    if (tea.length < 1 || tea.length > TEA_MAX) throw new GraphQLError(`a tea has 1 to ${TEA_MAX} characters`);
    if (orders.size >= ORDERS_MAX) throw new GraphQLError('we are closed: there are too many orders');
    return changed(shop, { id: String(orders.size + 1), tea, served: false });
  },
  changed() {
    throw new GraphQLError('subscriptions are for the gateway');
  },
  serve({ shop, id }) {
    const order = ordersOf(shop).get(id);
    if (!order) throw new GraphQLError('there is no such order');
    return changed(shop, { ...order, served: true });
  },
};

async function read(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > BODY_BYTES_MAX) throw new Error('too long');
  }
  return JSON.parse(Buffer.concat(chunks).toString());
}

const server = createServer(async (request, response) => {
  const answer = (status, body = '', type = 'application/json') => response.writeHead(status, { 'Content-Type': type }).end(body);
  const { pathname } = new URL(request.url, GATEWAY);
  if (request.method === 'GET' && Object.hasOwn(files, pathname)) return answer(200, ...files[pathname]);
  if (request.method !== 'POST' || pathname !== '/graphql') return answer(404);
  // Pages of other origins cannot send this type without a CORS preflight.
  if (request.headers['content-type'] !== 'application/json') return answer(415);
  const asked = await read(request).catch(() => null);
  if (typeof asked?.query !== 'string') return answer(400);
  const { query: source, variables: variableValues } = asked;
  const result = await graphql({ schema, source, rootValue: resolvers, variableValues });
  for (const { originalError } of result.errors ?? []) {
    if (originalError && !(originalError instanceof GraphQLError)) console.error(originalError.message);
  }
  return answer(200, JSON.stringify(result));
});

server.listen(PORT, '127.0.0.1', () => console.log(`the tea house is at http://127.0.0.1:${PORT}/?shop=green`));
