// Tests the tea house in real browsers: an application with its own GraphQL server, and the library in its page.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { startGateway } from '../support/gateway.mjs';
import { freePort } from '../support/redis.mjs';
import { startRelay } from '../support/relay.mjs';
import { until } from '../support/wait.mjs';
import { EXAMPLES, newPage, start } from './support.mjs';

const HERE = join(EXAMPLES, 'graphql');
// The API key in the configuration.
const KEY = 'change-this-key-of-the-graphql-example';

async function startTeaHouse(t) {
  const port = await freePort();
  const config = readFileSync(join(HERE, 'tidegate.toml'), 'utf8').replaceAll('127.0.0.1:3000', `127.0.0.1:${port}`);
  // The configuration names the schema relative to itself, but the test has a copy elsewhere.
  const env = { TIDEGATE_API__KEYS: undefined, TIDEGATE_GRAPHQL__SCHEMA_FILE: join(HERE, 'schema.graphql') };
  const gateway = await startGateway(t, { config, env });
  const server = start(t, process.execPath, ['server.mjs'], {
    cwd: HERE, env: { PORT: String(port), GATEWAY: `http://127.0.0.1:${gateway.port}` },
  });
  await until('the tea house listens', () => {
    if (server.ended) throw new Error(`${server.ended}: ${server.errors}`);
    return server.lines.length;
  });
  return { url: `http://127.0.0.1:${port}/`, gateway };
}

// `relay`: an optional relay between the page and the gateway.
async function enter(t, { url, gateway }, shop, relay) {
  const page = await newPage(t);
  const through = ({ from, to }) => {
    const { WebSocket } = globalThis;
    globalThis.WebSocket = class extends WebSocket {
      constructor(address, protocols) {
        super(address.replace(from, to), protocols);
      }
    };
  };
  if (relay) await page.addInitScript(through, { from: `:${gateway.port}/`, to: `:${relay.port}/` });
  await page.goto(`${url}?shop=${shop}`);
  await until('it is live', async () => (await page.textContent('#state')) === 'live');
  return page;
}

async function order(page, tea) {
  await page.fill('#tea', tea);
  await page.press('#tea', 'Enter');
}

const teas = (page, selector = '#orders li') => page.locator(`${selector} span`).allTextContents();
const shows = (page, expected, selector) =>
  until(`${selector ?? 'the list'} shows ${expected}`, async () => (await teas(page, selector)).join() === expected.join());

const isAway = (page) => until('it is away', async () => (await page.textContent('#state')) === 'not connected');

test('whoever looks at a shop sees its orders as they change, and those of no other', async (t) => {
  const house = await startTeaHouse(t);
  const [ann, bob, other] = [await enter(t, house, 'green'), await enter(t, house, 'green'), await enter(t, house, 'black')];
  await order(ann, 'Sencha');
  for (const page of [ann, bob]) await shows(page, ['Sencha']);
  await order(bob, 'Matcha');
  for (const page of [ann, bob]) await shows(page, ['Sencha', 'Matcha']);
  await bob.click('[data-id="1"] button');
  for (const page of [ann, bob]) await shows(page, ['Sencha'], '.served');
  const late = await enter(t, house, 'green');
  await shows(late, ['Sencha', 'Matcha']);
  assert.deepEqual([await teas(late, '.served'), await teas(other)], [['Sencha'], []]);
  assert.deepEqual(ann.complaints.filter((line) => !line.includes('favicon') && !line.includes('404')), []);
});

test('who was away is given what it missed, or reads all anew if that is no longer there', async (t) => {
  const house = await startTeaHouse(t);
  const relay = await startRelay(t, house.gateway.port);
  const [ann, bob] = [await enter(t, house, 'green', relay), await enter(t, house, 'green')];
  let asked = 0;
  ann.on('request', (request) => (asked += request.url().endsWith('/graphql') && request.method() === 'POST'));
  await order(bob, 'Sencha');
  await shows(ann, ['Sencha']);

  relay.cut();
  await isAway(ann);
  await order(bob, 'Matcha');
  await shows(bob, ['Sencha', 'Matcha']);
  relay.restore();
  await shows(ann, ['Sencha', 'Matcha']);
  assert.equal(asked, 0, 'the gateway has told it');

  relay.cut();
  await isAway(ann);
  await order(bob, 'Hojicha');
  await shows(bob, ['Sencha', 'Matcha', 'Hojicha']);
  const forgotten = await fetch(house.gateway.http('/api/history_remove'), {
    method: 'POST', headers: { 'X-API-Key': KEY }, body: JSON.stringify({ channel: 'orders:green' }),
  });
  assert.deepEqual([forgotten.status, await forgotten.json()], [200, { result: {} }]);
  relay.restore();
  await shows(ann, ['Sencha', 'Matcha', 'Hojicha']);
  assert.equal(asked, 1, 'the application has told it');
  await order(bob, 'Genmaicha');
  await shows(ann, ['Sencha', 'Matcha', 'Hojicha', 'Genmaicha']);
});
