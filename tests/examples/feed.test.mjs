// Tests the orders example in real browsers: pages show the records of a Redis stream, also those written while no gateway ran.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { startGateway } from '../support/gateway.mjs';
import { freePort, startRedis } from '../support/redis.mjs';
import { until } from '../support/wait.mjs';
import { EXAMPLES, newPage, start } from './support.mjs';

const FEED = join(EXAMPLES, 'feed');

const state = (page, order) => page.textContent(`[data-order="${order}"] b`);
const advance = (page, order) => page.click(`[data-order="${order}"] button`);

test('what is written into a stream is what pages show, also after the gateway was away', async (t) => {
  const redis = await startRedis(t);
  const [port, listen] = [await freePort(), await freePort()];
  const config = readFileSync(join(FEED, 'tidegate.toml'), 'utf8')
    .replaceAll('127.0.0.1:3000', `127.0.0.1:${port}`)
    .replace('redis://127.0.0.1:6379/0', redis.url);
  const env = { PORT: String(port), GATEWAY: `http://127.0.0.1:${listen}`, REDIS: redis.url };
  const gateway = await startGateway(t, { config, listen });
  const server = start(t, process.execPath, ['server.mjs'], { cwd: FEED, env });
  await until('the server listens', () => {
    if (server.ended) throw new Error(`${server.ended}: ${server.errors}`);
    return server.lines.length;
  });
  const pages = [await newPage(t), await newPage(t)];
  const live = async () => {
    for (const page of pages) await until('it is live', async () => (await page.textContent('#state')) === 'live');
  };
  for (const page of pages) await page.goto(`http://127.0.0.1:${port}/`);
  await live();
  await advance(pages[0], 1);
  for (const page of pages) await until('it is paid', async () => (await state(page, 1)) === 'paid');

  await gateway.kill();
  for (const page of pages) await until('it is cut off', async () => (await page.textContent('#state')) !== 'live');
  await advance(pages[0], 1);
  await advance(pages[1], 2);
  await until('both are written', async () => (await redis.ask('XLEN', 'shop:orders')) === ':3');
  assert.equal(await state(pages[0], 1), 'paid');
  const next = await startGateway(t, { config, listen });
  await live();
  const both = 'tidegate_feed_records_total{feed="orders",result="published"} 2';
  await until('both are published', async () => (await next.metrics()).includes(both));
  for (const page of pages) {
    await until('it is sent', async () => (await state(page, 1)) === 'sent');
    await until('the other is paid', async () => (await state(page, 2)) === 'paid');
  }
});
