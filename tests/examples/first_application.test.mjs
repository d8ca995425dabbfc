// Follows docs/first-application.md: writes its files, runs its commands in order, and compares their output with the page.
// Everything is read from the page; nothing is repeated here.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';

import { program } from '../support/programs.mjs';
import { freePort, startRedis } from '../support/redis.mjs';
import { until } from '../support/wait.mjs';
import { newPage, start } from './support.mjs';

const PAGE = new URL('../../docs/first-application.md', import.meta.url);
const SERVES = /^(TIDEGATE_|tidegate serve|node server\.mjs)/;

// Returns the blocks of a page: files, whose names precede the block, and commands with their output.
function blocksOf(markdown) {
  const blocks = [];
  for (const [, before, language, text] of markdown.matchAll(/([^\n]*)\n\n```(\w+)\n(.*?)^```$/gms)) {
    const file = /^`([\w.]+)`:$/.exec(before)?.[1];
    if (file) blocks.push({ file, text });
    else if (language === 'sh') blocks.push({ command: text.trim() });
    else if (language === 'json') blocks.at(-1).answer = text.trim();
  }
  return blocks;
}

// `…` in the page's output matches anything.
const pattern = (answer) => new RegExp(`^${answer.split('…').map(RegExp.escape ?? escaped).join('.+')}$`);
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

class Reader {
  root = mkdtempSync(join(tmpdir(), 'first-application-'));
  // The page starts in the checkout, and creates its folder beside it.
  cwd = join(this.root, 'checkout');
  servers = [];

  constructor(t, places, env) {
    Object.assign(this, { t, places, env });
    mkdirSync(this.cwd);
    t.after(() => rmSync(this.root, { recursive: true, force: true }));
  }

  // Replaces the page's ports by free ones.
  here(text) {
    return Object.entries(this.places).reduce(
      (said, [port, free]) => said.replace(new RegExp(`(127\\.0\\.0\\.1:|listen\\()${port}\\b`, 'g'), `$1${free}`),
      text,
    );
  }

  async follow({ file, text, command, answer }) {
    if (file) return writeFileSync(join(this.cwd, file), this.here(text));
    if (SERVES.test(command)) return this.serve(command);
    const said = execFileSync('bash', ['-euo', 'pipefail', '-c', `${this.here(command)}\necho; pwd`], {
      cwd: this.cwd,
      env: this.env,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const lines = said.trimEnd().split('\n');
    this.cwd = lines.pop();
    const shown = lines.join('\n').trim();
    if (answer) assert.match(shown, pattern(answer), command);
    return shown;
  }

  serve(command) {
    const server = start(this.t, 'bash', ['-c', `exec env ${this.here(command)}`], { cwd: this.cwd, env: this.env });
    this.servers.push(server);
    return until(`${command} serves`, async () => {
      if (server.ended) throw new Error(`${command} ${server.ended}: ${server.errors}`);
      return command.includes('tidegate') ? /\bserving\b/.test(server.errors) : server.lines.length;
    });
  }
}

const said = (page) => page.locator('#messages li').allTextContents();
const shows = (page, messages) =>
  until(`the page shows ${messages}`, async () => JSON.stringify(await said(page)) === JSON.stringify(messages));
const state = (page, text) => until(`its state is ${text}`, async () => (await page.textContent('#state')) === text);

async function signIn(t, url, name) {
  const page = await newPage(t);
  await page.goto(url);
  await page.fill('#user', name);
  await page.click('#sign-in button');
  await state(page, 'connected');
  return page;
}

async function say(page, text) {
  await page.fill('#text', text);
  await page.click('#say button');
}

test('the page on a first application leads to one', async (t) => {
  const redis = await startRedis(t);
  const places = { 6379: new URL(redis.url).port };
  for (const port of [3000, 8000, 8001, 8010, 8011]) places[port] = await freePort();
  const env = {
    ...process.env,
    PATH: `${dirname(program('tidegate'))}:${process.env.PATH}`,
    TIDEGATE_SERVER__LISTEN: `127.0.0.1:${places[8000]}`,
    TIDEGATE_INTERNAL__LISTEN: `127.0.0.1:${places[8001]}`,
    // npm uses packages that it has already fetched.
    npm_config_prefer_offline: 'true',
    npm_config_audit: 'false',
  };
  const reader = new Reader(t, places, env);
  const blocks = blocksOf(readFileSync(PAGE, 'utf8'));
  assert.deepEqual(blocks.flatMap(({ file }) => file ?? []), ['tidegate.toml', 'server.mjs', 'page.html']);
  // The program is already built.
  assert.match(blocks[0].command, /^cargo build /);
  const next = async (command) => {
    const block = blocks.shift();
    assert.ok((block.file ?? block.command).startsWith(command), `${block.file ?? block.command}: ${command} was to come`);
    return reader.follow(block);
  };
  blocks.shift();

  await next('mkdir ../chat');
  await next('openssl rand');
  await next('tidegate.toml');
  assert.match(await next('tidegate check'), /hmac_secret_file = "token.secret"/);
  await next('tidegate serve');
  assert.match(await next('curl'), /^\{"ready":true/);
  await next('npm install');
  await next('server.mjs');
  await next('page.html');
  await next('node server.mjs');

  const url = `http://127.0.0.1:${places[3000]}/`;
  const [ann, bob] = [await signIn(t, url, 'ann'), await signIn(t, url, 'bob')];
  const all = ['ann: hello <b>bob</b>', 'bob: hello ann'];
  await say(ann, 'hello <b>bob</b>');
  await shows(bob, all.slice(0, 1));
  await say(bob, 'hello ann');
  for (const page of [ann, bob]) await shows(page, all);

  await next('curl -s -H "X-API-Key');
  all.push('cron: good morning');
  for (const page of [ann, bob]) await shows(page, all);
  assert.match(await next('curl -s -H "X-API-Key'), /good morning/);
  await shows(await signIn(t, url, 'eve'), all);

  await ann.click('#away');
  for (const text of ['while you', 'were away']) {
    await say(bob, text);
    all.push(`bob: ${text}`);
    await shows(bob, all);
  }
  await shows(ann, all.slice(0, -2));
  await ann.click('#away');
  await state(ann, 'connected again, recovered: true');
  await shows(ann, all);

  assert.match(await next('tidegate token'), /ann/);
  assert.match(await next('tidegate connections'), /\bann\b[^]*\bbob\b|\bbob\b[^]*\bann\b/);

  reader.servers[0].child.kill('SIGTERM');
  await reader.servers[0].gone;
  await next('TIDEGATE_BROKER__KIND=redis');
  await next('TIDEGATE_BROKER__KIND=redis');
  assert.deepEqual(blocks, []);
  // The first gateway had the history in memory, so the page reports a failed recovery and starts over.
  await state(bob, 'connected again, recovered: false');
  await shows(bob, []);
  const response = await fetch(`http://127.0.0.1:${places[8010]}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': readFileSync(join(reader.cwd, 'api.key'), 'utf8').trim() },
    body: JSON.stringify({ channel: 'chat:lobby', data: { user: 'cron', text: 'from the other' } }),
  });
  assert.equal(response.status, 200);
  await shows(bob, ['cron: from the other']);
  assert.deepEqual(ann.complaints.filter((text) => !/WebSocket|Failed to load/.test(text)), []);
});
