// Tests the guest book in a real browser: a Pusher application with the official library in its page.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { startGateway } from '../support/gateway.mjs';
import { freePort } from '../support/redis.mjs';
import { until } from '../support/wait.mjs';
import { EXAMPLES, newPage, start } from './support.mjs';

const HERE = join(EXAMPLES, 'pusher');
const LIBRARY = new URL('./node_modules/pusher-js/dist/web/pusher.min.js', import.meta.url).pathname;

async function startGuestBook(t) {
  const port = await freePort();
  const config = readFileSync(join(HERE, 'tidegate.toml'), 'utf8').replaceAll('127.0.0.1:3000', `127.0.0.1:${port}`);
  const gateway = await startGateway(t, { config, env: { TIDEGATE_API__KEYS: undefined } });
  const env = { PORT: String(port), GATEWAY: `http://127.0.0.1:${gateway.port}` };
  const server = start(t, process.execPath, ['server.mjs'], { cwd: HERE, env });
  await until('the guest book listens', () => {
    if (server.ended) throw new Error(`${server.ended}: ${server.errors}`);
    return server.lines.length;
  });
  return { url: `http://127.0.0.1:${port}/`, server };
}

async function enter(t, url, name) {
  const page = await newPage(t);
  // The page loads the library from the internet, which tests do not use.
  await page.route('https://js.pusher.com/**', (route) =>
    route.fulfill({ contentType: 'text/javascript', body: readFileSync(LIBRARY, 'utf8') }));
  await page.goto(`${url}?name=${name}`);
  await page.locator('#text:enabled').waitFor({ timeout: 15_000 });
  return page;
}

const text = (page, selector) => page.locator(selector).allTextContents();
const shows = (page, selector, expected) =>
  until(`${selector} shows ${expected}`, async () => (await text(page, selector)).join('|') === expected);

test('guests see each other, who is writing, and what is written', async (t) => {
  const { url, server } = await startGuestBook(t);
  const ann = await enter(t, url, 'Ann');
  const bob = await enter(t, url, 'Bob');
  await shows(ann, '#guests', 'Ann, Bob');
  await shows(bob, '#guests', 'Ann, Bob');
  await bob.locator('#text').pressSequentially('hello');
  await shows(ann, '#typing', 'Bob is writing');
  await shows(bob, '#typing', '');
  await bob.press('#text', 'Enter');
  for (const page of [ann, bob]) await shows(page, '#book li', 'Bobhello');
  await bob.close();
  await shows(ann, '#guests', 'Ann');
  await until('the server is told', () => server.lines.includes('Bob has gone'));
  assert.deepEqual(server.lines.slice(1), ['Ann has come', 'Bob has come', 'Bob has gone']);
  assert.deepEqual(ann.complaints.filter((line) => !line.includes('favicon')), []);
});
