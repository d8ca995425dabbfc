// Tests the chat in a real browser: two users on two nodes over one Redis.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { startGateway } from '../support/gateway.mjs';
import { TARGET } from '../support/programs.mjs';
import { freePort, startRedis } from '../support/redis.mjs';
import { until } from '../support/wait.mjs';
import { EXAMPLES, newPage, start } from './support.mjs';

const CHAT = join(EXAMPLES, 'chat');
const SCREENSHOTS = join(TARGET, 'screenshots');
// The page's address in the chat's configuration.
const PAGE = '127.0.0.1:3000';

// Starts two nodes and the application as they are shipped, except for ports.
async function startChat(t) {
  const redis = await startRedis(t);
  const port = await freePort();
  const config = readFileSync(join(CHAT, 'tidegate.toml'), 'utf8').replaceAll(PAGE, `127.0.0.1:${port}`);
  const env = { TIDEGATE_API__KEYS: undefined, TIDEGATE_BROKER__KIND: 'redis', TIDEGATE_REDIS__URL: redis.url };
  const nodes = [await startGateway(t, { config, env }), await startGateway(t, { config, env })];
  const GATEWAYS = nodes.map((node) => `http://127.0.0.1:${node.port}`).join(',');
  const server = start(t, process.execPath, ['server.mjs'], { cwd: CHAT, env: { PORT: String(port), GATEWAYS } });
  await until('the chat listens', () => {
    if (server.ended) throw new Error(`${server.ended}: ${server.errors}`);
    return server.lines.length;
  });
  return { nodes, server, url: `http://127.0.0.1:${port}/` };
}

async function enter(t, url, name, options = {}) {
  const page = await newPage(t, { viewport: { width: 1100, height: 720 }, ...options });
  await page.goto(url);
  await page.fill('#name', name);
  await page.click('#door button');
  await connected(page);
  return page;
}

const connected = (page) => page.locator('body[data-state="connected"]').waitFor({ timeout: 15_000 });
const open = (page, key) => page.click(`nav button[data-key="${key}"]`);
const said = (page) => page.locator('#messages li p').allTextContents();
const text = (page, id) => page.locator(`#${id}`).textContent();
const unread = (page, key) => page.locator(`nav button[data-key="${key}"] .unread`).textContent();
const notification = (page) => page.locator('#notifications button').first();

async function say(page, message) {
  await page.fill('#text', message);
  await page.press('#text', 'Enter');
}

async function hears(page, messages) {
  await until(`the page shows ${JSON.stringify(messages)}`, async () => {
    const shown = await said(page);
    return shown.length === messages.length && shown.every((one, index) => one === messages[index]);
  }).catch(async (error) => {
    throw new Error(`${error.message}, and shows ${JSON.stringify(await said(page))}`);
  });
}

async function screenshot(page, name) {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `chat-${name}.png`) });
}

async function connections(node) {
  const metrics = await node.metrics();
  const values = [...metrics.matchAll(/^tidegate_connections\{[^}]*\} (\d+)$/gm)].map(([, value]) => Number(value));
  return values.reduce((sum, value) => sum + value, 0);
}

test('two people on different nodes see each other, talk, see who types and are told what concerns them', async (t) => {
  const { nodes, url } = await startChat(t);
  const ann = await enter(t, url, 'ann');
  const bob = await enter(t, url, 'bob', { colorScheme: 'dark' });
  assert.deepEqual([await connections(nodes[0]), await connections(nodes[1])], [1, 1]);
  await ann.locator('#people button[data-key="@bob"][data-here]').waitFor();
  await bob.locator('#people button[data-key="@ann"][data-here]').waitFor();
  assert.equal(await text(ann, 'here'), '2 here');

  await ann.fill('#text', 'hel');
  await until('bob sees her type', async () => (await text(bob, 'typing')) === 'ann is typing…');
  await say(ann, 'hello <b>bob</b>');
  await hears(bob, ['hello <b>bob</b>']);
  assert.equal(await text(bob, 'typing'), '', 'who has said it types no more');
  await say(bob, 'hello ann');
  await hears(ann, ['hello <b>bob</b>', 'hello ann']);

  await open(bob, 'random');
  await say(bob, 'look, @ann!');
  await until('ann is told', async () => (await notification(ann).textContent()) === 'bob in # random: look, @ann!');
  await until('it counts', async () => (await unread(ann, 'random')) === '1');
  await screenshot(ann, 'light');
  await notification(ann).click();
  await hears(ann, ['look, @ann!']);
  assert.equal(await ann.locator('#messages mark.me').textContent(), '@ann');
  assert.equal(await ann.locator('nav .unread').count(), 0);

  await open(ann, '@bob');
  await say(ann, 'just for you');
  await until('bob is told', async () => (await notification(bob).textContent()) === 'ann: just for you');
  await until('it counts once', async () => (await unread(bob, '@ann')) === '1');
  await notification(bob).click();
  await hears(bob, ['just for you']);
  await bob.fill('#text', 'tha');
  await until('ann sees him type', async () => (await text(ann, 'typing')) === 'bob is typing…');
  await say(bob, 'thanks');
  await hears(ann, ['just for you', 'thanks']);
  await screenshot(bob, 'dark');

  await ann.reload();
  await connected(ann);
  await hears(ann, ['just for you', 'thanks']);
  await open(ann, 'general');
  await hears(ann, ['hello <b>bob</b>', 'hello ann']);

  const eve = await enter(t, url, 'eve', { viewport: { width: 390, height: 780 } });
  await hears(eve, ['hello <b>bob</b>', 'hello ann']);
  await until('three', async () => (await text(ann, 'here')) === '3 here');
  assert.equal(await eve.locator('nav button[data-key^="@"]').count(), 2, 'and no conversation of others');
  await say(eve, 'from a phone');
  await hears(ann, ['hello <b>bob</b>', 'hello ann', 'from a phone']);
  await screenshot(eve, 'phone');
  const overflow = await eve.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth - clientWidth;
  });
  assert.equal(overflow, 0, 'nothing stands out of a small screen');
  await eve.close();
  await until('two again', async () => (await text(ann, 'here')) === '2 here');
  assert.deepEqual([ann.complaints, bob.complaints, eve.complaints], [[], [], []]);
});

test('when a node is lost nothing that was said is, and nothing is there twice', async (t) => {
  const { nodes, url } = await startChat(t);
  const ann = await enter(t, url, 'ann');
  const bob = await enter(t, url, 'bob');
  const all = [];
  const talk = async (page, message) => {
    all.push(message);
    await say(page, message);
    await hears(page, all);
  };
  await talk(ann, 'before');
  await talk(bob, 'before, too');
  await hears(ann, all);

  // Ann's node is the first, at which the application publishes too.
  await nodes[0].kill();
  const meanwhile = 'from her, while she is away';
  await say(ann, meanwhile);
  all.push(meanwhile);
  await hears(bob, all);
  for (let count = 1; count <= 5; count += 1) await talk(bob, `while she is away ${count}`);
  await connected(ann);
  await hears(ann, all);
  assert.equal(await connections(nodes[1]), 2);
  await talk(ann, 'back again');
  await hears(bob, all);
  await open(ann, '@bob');
  await say(ann, 'did you see that?');
  await until('bob is told', async () => (await notification(bob).textContent()) === 'ann: did you see that?');

  await ann.reload();
  await connected(ann);
  await open(ann, 'general');
  await hears(ann, all);
  assert.deepEqual(bob.complaints, []);
});

test('nobody reads what others say to each other, or publishes past the application', async (t) => {
  const { nodes, url } = await startChat(t);
  const ann = await enter(t, url, 'ann');
  const codes = await ann.evaluate(async (gateway) => {
    const { token } = await (await fetch('/session', { method: 'POST', body: '{"name":"eve"}' })).json();
    const client = new globalThis.Centrifuge(gateway, { token });
    const code = (promise) => promise.then(() => 0, (error) => error.code);
    client.connect();
    await client.ready();
    const tried = client.newSubscription('direct:#ann,bob');
    const refused = new Promise((resolve) => tried.once('unsubscribed', ({ code: why }) => resolve(why)));
    tried.subscribe();
    const found = [
      await refused,
      await code(client.publish('room:general', { from: 'ann', text: 'forged' })),
      await code(client.publish('direct:#ann,bob', {})),
      await code(client.history('personal:#ann', { limit: 1 })),
      await code(client.publish('typing:#ann,bob', {})),
    ];
    client.disconnect();
    return found;
  }, nodes[0].url);
  assert.deepEqual(codes, [103, 103, 103, 103, 103]);
  const statuses = await ann.evaluate(async () => {
    const post = (path, body, headers) => fetch(path, { method: 'POST', headers, body }).then(({ status }) => status);
    return [
      await post('/messages', '{"to":"general","text":"hi","id":"12345678"}'),
      await post('/messages', '{"to":"general","text":"hi","id":"12345678"}', { Authorization: 'Bearer a.b.c' }),
      await post('/session', '{"name":"not#allowed"}'),
      await post('/session', 'no json'),
    ];
  });
  assert.deepEqual(statuses, [401, 401, 400, 400]);
  await hears(ann, []);
});
