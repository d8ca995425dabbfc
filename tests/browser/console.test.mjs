// Tests the console in a real browser, against a real gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { newPage, openTicker, screenshot, startGateway, until } from './support.mjs';

const PASSWORD = 'open sesame';
const CONSOLE = `[console]\nenabled = true\npassword = "${PASSWORD}"\n`;
const OPEN = `[namespaces.open]
allow_subscribe = true
allow_subscribe_anonymous = true
history_size = 10
history_ttl_s = 60
publication_time = true
presence = true
[auth]
allow_anonymous = true
`;

async function openConsole(t, gateway, { part = '', ...options } = {}) {
  const page = await newPage(t, {
    viewport: { width: 1280, height: 900 }, httpCredentials: { username: 'ops', password: PASSWORD }, ...options,
  });
  page.complaints = [];
  page.on('console', (message) => message.type() === 'error' && page.complaints.push(message.text()));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('dialog', (dialog) => dialog.accept());
  await page.goto(`http://127.0.0.1:${gateway.internalPort}/console/${part}`);
  return page;
}

const cell = (page, text) => page.locator('td', { hasText: text }).first();

// Opens a page of the gateway's origin as a client of the bare endpoint. It records messages and the close code.
async function listener(t, gateway, channel) {
  const page = await newPage(t);
  await page.goto(gateway.http('/api/openapi.json'));
  await page.evaluate((channel) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/raw/${channel}`);
    Object.assign(window, { heard: [], closedWith: null });
    socket.onmessage = ({ data }) => window.heard.push(data);
    socket.onclose = ({ code }) => { window.closedWith = code; };
    socket.onopen = resolve;
    socket.onerror = reject;
  }), channel);
  return { heard: () => page.evaluate(() => window.heard), closed: () => page.evaluate(() => window.closedWith) };
}

test('the overview shows nodes and moving figures, also in the dark and on a phone', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: `[node]\nname = "tidegate-1"\n${CONSOLE}` });
  await openTicker(t, gateway.port);
  const page = await openConsole(t, gateway);
  await page.locator('#state[data-state="well"]').waitFor();
  await cell(page, 'tidegate-1').waitFor();
  await until('a plot of deliveries that moves', async () => {
    const lines = await page.locator('path.line.series-0').evaluateAll((all) => all.map((line) => line.getAttribute('d')));
    return lines.length === 4 && lines.every((line) => (line.match(/[ML]/g) ?? []).length >= 4);
  });
  const words = await page.locator('.plot svg').evaluateAll((all) => all.map((plot) => plot.getAttribute('aria-label')));
  assert.match(words[0], /^Publications a second: in [1-9][\d.]*k?$/);
  assert.match(words[2], /^From publication to the last socket: p50 [\d.]+ (µs|ms), p99 [\d.]+ (µs|ms)$/);
  assert.match(words[3], /^Connections: here 1$/);
  const scale = await page.locator('.plot').nth(3).locator('text[text-anchor=end]:not([y="146"])').allTextContents();
  assert.deepEqual(scale, ['0', '1', '2'], 'connections are whole');
  const prices = page.locator('tr[data-key="prices"] td');
  await until('what goes on in a namespace', async () => Number((await prices.allTextContents())[4]) > 0);
  assert.ok(await cell(page, '(default)').isVisible(), 'channels without a namespace have a row, too');
  await screenshot(page, 'console');
  const dark = await openConsole(t, gateway, { colorScheme: 'dark', viewport: { width: 390, height: 844 } });
  await cell(dark, 'tidegate-1').waitFor();
  assert.ok(await dark.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out on a phone');
  const rows = await dark.locator('nav a').evaluateAll((all) => new Set(all.map((link) => link.offsetTop)).size);
  assert.equal(rows, 1, 'the links are in one line on a phone');
  await screenshot(dark, 'console-phone-dark');
  assert.deepEqual([...page.complaints, ...dark.complaints], []);
});

test('from a channel to its subscriber, and why it did or did not get a publication, until it is put out', async (t) => {
  const gateway = await startGateway(t, { config: CONSOLE + OPEN });
  const client = await listener(t, gateway, 'open:one');
  const page = await openConsole(t, gateway, { part: '#channels' });
  await page.locator('input[name=pattern]').fill('one');
  await page.getByRole('button', { name: 'Search' }).click();
  await page.getByRole('link', { name: 'open:one' }).click();

  await page.locator('textarea[name=data]').fill('{"price": <b>');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.getByText('The data is not JSON').waitFor();
  await page.locator('textarea[name=data]').fill('{"note": "<b>bold</b>"}');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.getByText('Published at the offset 1.').waitFor();
  const bottoms = await page.locator('form button, form .said').evaluateAll((all) => all.map((one) => one.getBoundingClientRect().bottom));
  assert.ok(Math.abs(bottoms[0] - bottoms[1]) < 1, 'the message is level with its button');
  await page.getByText('1 client, 1 user (anonymous clients count as one)').waitFor();
  const [heard] = await until('it is heard', async () => {
    const all = await client.heard();
    return all.length === 1 && all;
  });
  assert.deepEqual(JSON.parse(heard), { note: '<b>bold</b>' });
  await cell(page, '{"note":"<b>bold</b>"}').waitFor();
  assert.equal(await page.locator('td b').count(), 0, 'what was published is text');
  await screenshot(page, 'console-channel');

  await page.locator('td[data-title=Client] a').click();
  await cell(page, 'live').waitFor();
  await cell(page, /^1 of /).waitFor();
  const explain = async (channel, offset) => {
    await page.locator('input[name=channel]').fill(channel);
    await page.locator('input[name=offset]').fill(offset);
    await page.getByRole('button', { name: 'Explain' }).click();
  };
  await explain('open:one', '1');
  await page.locator('.verdict[data-verdict=sent]').waitFor();
  await explain('open:one', '');
  await page.locator('.verdict[data-verdict=unknown]').waitFor();
  await explain('open:one', '7');
  await page.getByText("the publication does not exist: the channel's last publication has the offset 1").waitFor();
  await explain('open:two', '');
  await page.getByText('the client is not subscribed to the channel').waitFor();
  await explain('unknown:one', '');
  await page.getByText('unknown channel (102)').waitFor();
  await screenshot(page, 'console-client');

  await page.getByRole('button', { name: 'Disconnect' }).click();
  await until('it is closed', async () => (await client.closed()) === 3503);
  await page.getByText('No client with this id is connected.').waitFor();
  await cell(page, 'force disconnect').waitFor();
  await page.getByRole('link', { name: 'Closes' }).click();
  await cell(page, '3503').waitFor();
  assert.deepEqual(page.complaints, []);
});

test('what is looked at again and again keeps the focus and the selection that are in it', async (t) => {
  const gateway = await startGateway(t, { config: CONSOLE + OPEN });
  await listener(t, gateway, 'open:one');
  const page = await openConsole(t, gateway, { part: '#channels' });
  const link = page.getByRole('link', { name: 'open:one' });
  await link.waitFor();
  await page.evaluate(() => {
    const link = document.querySelector('td a');
    link.focus();
    getSelection().selectAllChildren(link);
  });
  // One more row before the selected one, and one after it.
  await listener(t, gateway, 'open:a');
  await listener(t, gateway, 'open:z');
  await cell(page, 'open:z').waitFor();
  assert.deepEqual(await page.locator('td[data-title=Channel]').allTextContents(), ['open:a', 'open:one', 'open:z']);
  assert.deepEqual(await page.evaluate(() => [document.activeElement.textContent, String(getSelection())]), ['open:one', 'open:one']);
  await page.goto(`http://127.0.0.1:${gateway.internalPort}/console/#connections`);
  await until('all three have rows', async () => (await page.locator('td[data-title=Client]').count()) === 3);
  assert.deepEqual(page.complaints, []);
});

test('a password is asked for, scripts of other pages are not served, and a console that only shows changes nothing', async (t) => {
  const gateway = await startGateway(t, { config: `${CONSOLE}read_only = true\n${OPEN}` });
  const at = `http://127.0.0.1:${gateway.internalPort}/console`;
  const knows = { Authorization: `Basic ${Buffer.from(`ops:${PASSWORD}`).toString('base64')}` };
  const asked = async (path, headers = {}, options = {}) => (await fetch(at + path, { headers, ...options })).status;
  assert.equal(await asked('/'), 401);
  assert.equal(await asked('/metrics'), 401);
  assert.equal(await asked('/', { Authorization: `Basic ${Buffer.from('ops:guess').toString('base64')}` }), 401);
  assert.equal(await asked('/', knows), 200);
  const post = { method: 'POST', body: '{}' };
  assert.equal(await asked('/api/info', knows, post), 403, 'a form of another page cannot send the header');
  const own = { ...knows, 'X-Tidegate-Console': '1' };
  assert.equal(await asked('/api/info', own, post), 200);
  for (const method of ['publish', 'disconnect', 'unsubscribe']) assert.equal(await asked(`/api/${method}`, own, post), 403);
  for (const method of ['reload', 'batch', 'rpc', 'subscribe', 'map_clear', '']) {
    assert.equal(await asked(`/api/${method}`, own, post), 404, method);
  }
  await listener(t, gateway, 'open:one');
  const page = await openConsole(t, gateway, { part: '#connections' });
  await page.locator('td[data-title=Client] a').click();
  await cell(page, 'open:one').waitFor();
  for (const name of ['Disconnect', 'Unsubscribe', 'Publish']) {
    assert.equal(await page.getByRole('button', { name }).count(), 0, name);
  }
  assert.equal(await page.getByRole('link', { name: 'Publish' }).count(), 0);
});

test('a node that goes away is told', async (t) => {
  const gateway = await startGateway(t, { config: CONSOLE });
  const page = await openConsole(t, gateway);
  await page.locator('#state[data-state="well"]').waitFor();
  await gateway.kill();
  await page.locator('#state[data-state="lost"]').waitFor();
  assert.equal(await page.locator('#state-text').textContent(), 'the node cannot be reached');
});
