// Shared by the tests of the ticker page: a gateway with the demo, and Chromium with the page open.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';

import { chromium } from 'playwright-core';

import { TARGET } from '../support/programs.mjs';

export { startGateway } from '../support/gateway.mjs';
export { startRelay } from '../support/relay.mjs';
export { until } from '../support/wait.mjs';

const SCREENSHOTS = join(TARGET, 'screenshots');
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

export const SYMBOLS = ['AAPL', 'FB', 'GOOG', 'IBM', 'MSFT'];

// One browser for all tests; each test has a separate context.
let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
});
after(() => browser?.close());

export async function newPage(t, options) {
  const context = await browser.newContext(options);
  t.after(() => context.close());
  return context.newPage();
}

// Opens the ticker. Errors of the page are collected in `complaints`.
export async function openTicker(t, port, { prepare = async () => {}, path = '/', ...options } = {}) {
  const page = await newPage(t, { viewport: { width: 1280, height: 900 }, ...options });
  page.complaints = [];
  page.on('console', (message) => message.type() === 'error' && page.complaints.push(message.text()));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  await prepare(page);
  await page.goto(`http://127.0.0.1:${port}${path}`);
  return page;
}

// Returns the page's data about its connection, with numbers as numbers.
export async function counters(page) {
  const data = await page.locator('#ticker').evaluate(({ dataset }) => ({ ...dataset }));
  for (const [key, value] of Object.entries(data)) if (/^\d+$/.test(value)) data[key] = Number(value);
  return data;
}

// Returns the symbol, offset, price and day of every card.
export function cards(page) {
  return page.locator('.share').evaluateAll((all) =>
    all.map(({ dataset }) => ({
      symbol: dataset.symbol,
      offset: Number(dataset.offset ?? 0),
      close: Number(dataset.close),
      date: dataset.date,
    })),
  );
}

export async function inState(page, state) {
  await page.locator(`#ticker[data-state="${state}"]`).waitFor({ timeout: 15_000 });
}

export async function screenshot(page, name) {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true });
}
