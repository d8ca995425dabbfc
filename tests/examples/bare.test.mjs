// Tests the examples of WebSocket tutorials: each server with each of its backends, and with clients of every kind at once.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { program } from '../support/programs.mjs';
import { until } from '../support/wait.mjs';
import { everyClient, goIsMissing, nodeClient, startExample } from './support.mjs';

const LANGUAGES = ['Node', 'Python', 'Go'];

function forEachBackend(example, run) {
  for (const language of LANGUAGES) {
    const skip = language === 'Go' && goIsMissing(example);
    test(`${example} with a backend in ${language}`, { skip }, async (t) => {
      const started = await startExample(t, example, language);
      await run(t, { ...started, at: (path) => `ws://127.0.0.1:${started.gateway.port}${path}` });
    });
  }
}

async function subscribed(gateway, count) {
  const line = `\ntidegate_subscriptions ${count}\n`;
  await until(`${count} subscriptions`, async () => (await gateway.metrics()).includes(line));
}

forEachBackend('echo', async (t, { at }) => {
  const clients = await everyClient(t, at('/ws'));
  const said = ['hello', '{"json": true}', 'ünïcode 🙂'];
  for (const client of clients) {
    for (const text of said) await client.say(text);
    for (const [number, text] of said.entries()) assert.equal(await client.message(number), text, client.kind);
  }
  for (const client of clients) assert.equal(client.heard.length, said.length, 'nobody hears what others say');
  for (const path of ['/', '/echo']) {
    const client = await nodeClient(t, at(path));
    client.say(Buffer.from([0, 255, 1]));
    assert.deepEqual(await client.message(0), Buffer.from([0, 255, 1]));
  }
});

forEachBackend('broadcast', async (t, { gateway, backend, at }) => {
  const clients = [...(await everyClient(t, at('/'))), await nodeClient(t, at('/ws'))];
  await subscribed(gateway, clients.length);
  const names = new Set();
  for (const [number, speaker] of clients.entries()) {
    const text = `"${speaker.kind}" says 🙂 ${number}`;
    await speaker.say(text);
    for (const client of clients) {
      const heard = JSON.parse(await client.message(number));
      assert.equal(heard.text, text, client.kind);
      names.add(heard.from);
    }
  }
  assert.equal(names.size, clients.length, 'each has one name');
  // Clients are closed with 3004 when the backend fails.
  backend.child.kill('SIGKILL');
  await backend.gone;
  clients[0].say('is anybody there?');
  await until('closed', () => clients[0].closed);
  assert.equal(clients[0].closed.code, 3004);
});

forEachBackend('chat-rooms', async (t, { gateway, config, at }) => {
  const clients = await everyClient(t, at('/raw/room:tea'));
  const elsewhere = await nodeClient(t, at('/raw/room:coffee'));
  const ann = await nodeClient(t, at('/raw/room:tea'), ['tidegate.raw', `tidegate.token.${tokenFor('ann', config)}`]);
  clients.push(ann);
  await subscribed(gateway, clients.length + 1);
  elsewhere.say('in another room');
  const { room, text } = JSON.parse(await elsewhere.message(0));
  assert.deepEqual({ room, text }, { room: 'coffee', text: 'in another room' });
  for (const [number, speaker] of clients.entries()) {
    await speaker.say(`${number}`);
    for (const client of clients) {
      const heard = JSON.parse(await client.message(number));
      assert.deepEqual({ room: heard.room, text: heard.text }, { room: 'tea', text: `${number}` }, client.kind);
      assert.match(heard.from, speaker === ann ? /^ann$/ : /^stranger-[0-9a-f]{4}$/);
    }
  }
  assert.equal(elsewhere.heard.length, 1, 'rooms do not hear each other');
  ann.say('x'.repeat(501));
  await until('closed', () => ann.closed);
  assert.deepEqual(ann.closed, { code: 4500, reason: 'too long' });
  const nowhere = await nodeClient(t, at('/raw/room:NO%20SUCH'));
  await until('closed', () => nowhere.closed);
});

// Creates a token as the README does.
function tokenFor(user, config) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-token-'));
  try {
    writeFileSync(join(directory, 'tidegate.toml'), config);
    const args = ['token', '--config', join(directory, 'tidegate.toml'), '--user', user];
    return execFileSync(program('tidegate'), args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
  } finally {
    rmSync(directory, { recursive: true });
  }
}
