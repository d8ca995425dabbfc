// Tests the example of books in stock in real browsers: two readers of one hub.

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { startGateway } from '../support/gateway.mjs';
import { freePort } from '../support/redis.mjs';
import { startRelay } from '../support/relay.mjs';
import { until } from '../support/wait.mjs';
import { EXAMPLES, newPage, start } from './support.mjs';

const UPDATES = join(EXAMPLES, 'updates');
// The page's address in the configuration.
const PAGE = '127.0.0.1:3000';

async function startUpdates(t) {
  const port = await freePort();
  const config = readFileSync(join(UPDATES, 'tidegate.toml'), 'utf8').replaceAll(PAGE, `127.0.0.1:${port}`);
  const gateway = await startGateway(t, { config });
  const relay = await startRelay(t, gateway.port);
  const env = { PORT: String(port), GATEWAY: `http://127.0.0.1:${relay.port}` };
  const server = start(t, process.execPath, ['server.mjs'], { cwd: UPDATES, env });
  await until('the server listens', () => {
    if (server.ended) throw new Error(`${server.ended}: ${server.errors}`);
    return server.lines.length;
  });
  return { relay, gateway, url: `http://127.0.0.1:${port}/` };
}

async function enter(t, url, reader) {
  const page = await newPage(t);
  await page.goto(`${url}?reader=${reader}`);
  await until(`${reader} is live`, async () => (await page.textContent('#state')) === 'live');
  return page;
}

const reserve = (page, book) => page.click(`[data-book="${book}"] button`);
const left = (page, book) => page.textContent(`[data-book="${book}"] b`);
// The application server's token, signed as the server does.
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const signed = `${encode({ alg: 'HS256' })}.${encode({ mercure: { publish: ['*'] } })}`;
const secret = 'change this secret of the updates example';
const authorization = `Bearer ${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;

const mine = (page) => page.locator('.mine').evaluateAll((all) => all.map(({ dataset }) => dataset.book));

test('everybody sees what is left, and each reader what is theirs, also what came while they were away', async (t) => {
  const { relay, gateway, url } = await startUpdates(t);
  const [ann, bob] = [await enter(t, url, 'ann'), await enter(t, url, 'bob')];
  await reserve(ann, 'Dune');
  for (const page of [ann, bob]) await until('one Dune is left', async () => (await left(page, 'Dune')) === '1');
  await until('Ann has Dune', async () => (await mine(ann)).includes('Dune'));
  await reserve(bob, 'Emma');
  await until('Bob has Emma', async () => (await mine(bob)).includes('Emma'));
  assert.deepEqual([await mine(ann), await mine(bob)], [['Dune'], ['Emma']]);

  relay.cut();
  await until('Ann is cut off', async () => (await ann.textContent('#state')) !== 'live');
  const form = new URLSearchParams({ topic: '/books/1984', data: JSON.stringify({ book: '1984', left: 42 }) });
  const published = await fetch(gateway.http('/.well-known/mercure'), { method: 'POST', body: form, headers: { authorization } });
  assert.equal(published.status, 200, await published.text());
  relay.restore();
  for (const page of [ann, bob]) await until('they are live again', async () => (await page.textContent('#state')) === 'live');
  for (const page of [ann, bob]) await until('they have heard of it', async () => (await left(page, '1984')) === '42');
});
