// Starts gateways from the built program, each on free ports and with a configuration of its own.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { program } from './programs.mjs';

const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 15_000;
export const API_KEY = 'test-key';

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

// Starts a gateway that stops when the test `t` ends. `config` is TOML; `demo` starts it with `--demo`; `env` are further
// variables; `binary` is another program; `listen` and `internalListen` are its ports, by default free ones.
export async function startGateway(
  t, { config = '', demo = false, env = {}, binary = program('tidegate'), listen = 0, internalListen = 0 } = {},
) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-test-'));
  const file = join(directory, 'gateway.toml');
  writeFileSync(file, config);
  const at = (port) => `127.0.0.1:${port}`;
  const args = ['serve', '--config', file, '--listen', at(listen), '--internal-listen', at(internalListen)];
  const child = spawn(binary, demo ? [...args, '--demo'] : args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { PATH: process.env.PATH, TIDEGATE_TELEMETRY__LOG_FORMAT: 'json', TIDEGATE_API__KEYS: API_KEY, ...env },
  });
  const gateway = new Gateway(child, directory);
  running.add(child);
  t.after(() => gateway.kill());
  await gateway.started();
  return gateway;
}

class Gateway {
  constructor(child, directory) {
    this.child = child;
    this.log = [];
    this.gone = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        running.delete(child);
        rmSync(directory, { recursive: true, force: true });
        resolve(code ?? signal);
      });
    });
    this.lines = createInterface({ input: child.stderr });
  }

  // Resolves when the gateway has logged the addresses at which it listens.
  started() {
    return new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(`the gateway did not start: ${why}\n${this.log.join('\n')}`));
      const timer = setTimeout(() => fail(`nothing within ${START_DEADLINE_MS} ms`), START_DEADLINE_MS);
      this.gone.then((status) => fail(`exit ${status}`));
      this.lines.on('line', (line) => {
        this.log.push(line);
        const address = /"client_address":"127\.0\.0\.1:(\d+)"/.exec(line);
        if (!address || this.port) return;
        clearTimeout(timer);
        this.port = Number(address[1]);
        this.internalPort = Number(/"internal_address":"127\.0\.0\.1:(\d+)"/.exec(line)?.[1]);
        resolve();
      });
    });
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/connection/websocket`;
  }

  http(path) {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  raw(channel, query = '') {
    return `ws://127.0.0.1:${this.port}/raw/${channel}${query}`;
  }

  // Calls the server API. An error reply is thrown, with its code.
  async api(method, params = {}) {
    const response = await fetch(this.http(`/api/${method}`), {
      method: 'POST',
      headers: { 'X-API-Key': API_KEY, 'Content-Type': 'application/json' },
      body: JSON.stringify(params),
    });
    if (response.status !== 200) throw new Error(`${method}: status ${response.status} ${await response.text()}`);
    const { result, error } = await response.json();
    if (error) throw Object.assign(new Error(`${method}: ${error.message}`), { code: error.code });
    return result;
  }

  publish(channel, data) {
    return this.api('publish', { channel, data });
  }

  async ready() {
    return (await fetch(`http://127.0.0.1:${this.internalPort}/readyz`)).status === 200;
  }

  async metrics() {
    return (await fetch(`http://127.0.0.1:${this.internalPort}/metrics`)).text();
  }

  // Stops the gateway as an operator would, and returns its exit code.
  async stop() {
    this.child.kill('SIGTERM');
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`the gateway still runs: ${this.log.slice(-5)}`)), STOP_DEADLINE_MS);
    });
    return Promise.race([this.gone, late]).finally(() => clearTimeout(timer));
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.gone;
  }
}
