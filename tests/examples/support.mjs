// Shared by the tests of the examples: an example's gateway and backend on free ports, and clients of every kind.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before } from 'node:test';

import { chromium } from 'playwright-core';
import WebSocket from 'ws';

import { startGateway } from '../support/gateway.mjs';
import { TARGET } from '../support/programs.mjs';
import { freePort } from '../support/redis.mjs';
import { until } from '../support/wait.mjs';

export const EXAMPLES = new URL('../../deploy/examples/', import.meta.url).pathname;
const HERE = new URL('./', import.meta.url).pathname;
const PYTHON = join(TARGET, 'venv-examples/bin/python');
const GO = join(TARGET, 'examples-go');
const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-sync'];
// The backend's address in the examples' configurations.
const BACKEND = '127.0.0.1:3000';

// Returns the reason to skip a Go program that tests/examples/run could not build, or false.
export const goIsMissing = (name) => (existsSync(join(GO, name)) ? false : `${name} was not built: see above`);

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
});
after(() => browser?.close());

export async function newPage(t, options) {
  const context = await browser.newContext(options);
  t.after(() => context.close());
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (message) => message.type() === 'error' && page.complaints.push(message.text()));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  return page;
}

// Starts a process that ends with the test, and collects the lines of its output.
export function start(t, command, args, { cwd, env } = {}) {
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
  const running = { child, lines: [], errors: '' };
  createInterface({ input: child.stdout }).on('line', (line) => running.lines.push(line));
  child.stderr.on('data', (data) => (running.errors += data));
  child.stdin.on('error', () => {});
  running.gone = new Promise((resolve) => {
    child.once('error', (error) => resolve((running.ended = error.message)));
    child.once('exit', (code, signal) => resolve((running.ended = `ended with ${code ?? signal}`)));
  });
  const kill = () => child.kill('SIGKILL');
  process.on('exit', kill);
  t.after(async () => {
    process.off('exit', kill);
    kill();
    await running.gone;
  });
  return running;
}

const COMMANDS = {
  Node: () => ['node', ['backend.mjs']],
  Python: () => [PYTHON, ['-B', 'backend.py']],
  Go: (example) => [join(GO, example), []],
};

// Starts the gateway with the example's configuration, except for ports, and one of its backends.
export async function startExample(t, example, language) {
  const port = await freePort();
  const cwd = join(EXAMPLES, example);
  const config = readFileSync(join(cwd, 'tidegate.toml'), 'utf8').replaceAll(BACKEND, `127.0.0.1:${port}`);
  // A busy machine may need longer than the default timeout.
  const settings = { TIDEGATE_API__KEYS: undefined, TIDEGATE_BACKEND__TIMEOUT_MS: '15000' };
  const gateway = await startGateway(t, { config, env: settings });
  const [command, args] = COMMANDS[language](example);
  const env = { PORT: String(port), GATEWAY: `http://127.0.0.1:${gateway.port}` };
  const backend = start(t, command, args, { cwd, env });
  await until(`the backend in ${language} listens`, async () => {
    if (backend.ended) throw new Error(`${backend.ended}: ${backend.errors}`);
    return listens(port);
  });
  return { gateway, backend, config };
}

const listens = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => resolve(true) || socket.destroy());
    socket.once('error', () => resolve(false));
  });

// ---- clients ----

// A client of any kind, with the text messages that it has received.
class Client {
  heard = [];

  constructor(kind, say) {
    Object.assign(this, { kind, say });
  }

  // Waits for the message with this number, from 0, and returns it.
  async message(number) {
    await until(`${this.kind} hears ${number + 1} messages`, () => {
      if (this.closed) throw new Error(`${this.kind} was closed: ${JSON.stringify(this.closed)}`);
      return this.heard.length > number;
    });
    return this.heard[number];
  }
}

export async function nodeClient(t, url, protocols = []) {
  const socket = new WebSocket(url, protocols);
  t.after(() => socket.terminate());
  const client = new Client('Node ws', (text) => socket.send(text));
  client.socket = socket;
  socket.on('message', (data, isBinary) => client.heard.push(isBinary ? data : String(data)));
  socket.on('close', (code, reason) => (client.closed = { code, reason: String(reason) }));
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  return client;
}

// Opens a client in a page of another origin, as that of a tutorial.
async function browserClient(t, url) {
  const server = createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html').end('<title>page</title>');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => new Promise((resolve) => server.close(resolve)));
  const page = await newPage(t);
  const client = new Client('a browser', (text) => page.evaluate((said) => globalThis.socket.send(said), text));
  await page.exposeFunction('hear', (text) => client.heard.push(text));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.evaluate(
    (address) =>
      new Promise((resolve, reject) => {
        globalThis.socket = new WebSocket(address);
        globalThis.socket.onmessage = ({ data }) => globalThis.hear(data);
        globalThis.socket.onopen = resolve;
        globalThis.socket.onerror = () => reject(new Error(`no WebSocket at ${address}`));
      }),
    url,
  );
  return client;
}

async function processClient(t, kind, command, args) {
  const running = start(t, command, args);
  const client = new Client(kind, (text) => running.child.stdin.write(`${JSON.stringify(text)}\n`));
  await until(`${kind} is connected`, () => {
    if (running.ended) throw new Error(`${kind} ${running.ended}: ${running.errors}`);
    return running.lines.length;
  });
  Object.defineProperty(client, 'heard', { get: () => running.lines.slice(1).map((line) => JSON.parse(line)) });
  return client;
}

// Connects one client of each kind, with Go if its programs were built.
export async function everyClient(t, url) {
  const clients = [
    await nodeClient(t, url),
    await browserClient(t, url),
    await processClient(t, 'Python websockets', PYTHON, ['-B', join(HERE, 'bare_client.py'), url]),
  ];
  if (!goIsMissing('gorilla')) clients.push(await processClient(t, 'Go Gorilla', join(GO, 'gorilla'), [url]));
  return clients;
}
