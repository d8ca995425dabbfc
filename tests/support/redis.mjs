// Starts a Redis for one test, on a free port.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { until } from './wait.mjs';

const ATTEMPTS = 5;

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

export async function startRedis(t) {
  for (let attempt = 1; ; attempt += 1) {
    const port = await freePort();
    const directory = mkdtempSync(join(tmpdir(), 'tidegate-redis-'));
    const options = { port, bind: '127.0.0.1', save: '', appendonly: 'no', dir: directory, daemonize: 'no' };
    const args = Object.entries(options).flatMap(([key, value]) => [`--${key}`, String(value)]);
    const child = spawn('redis-server', args, { stdio: 'ignore' });
    running.add(child);
    let ended = '';
    const gone = new Promise((resolve) => {
      const end = (why) => resolve((ended = why));
      child.once('error', (error) => end(`${error.message}; apt-get install redis-server brings it`));
      child.once('exit', (code) => end(`redis-server ended with ${code}`));
    });
    const stop = async () => {
      child.kill('SIGKILL');
      await gone;
      running.delete(child);
      rmSync(directory, { recursive: true, force: true });
    };
    await until('redis-server answers', async () => ended || (await answers(port)));
    if (!ended) {
      t.after(stop);
      return { port, url: `redis://127.0.0.1:${port}`, ask: (...words) => ask(port, words) };
    }
    await stop();
    // Another process can take a free port before Redis does.
    if (attempt === ATTEMPTS) throw new Error(ended);
  }
}

export function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const answers = (port) => ask(port, ['PING']).then((answer) => answer === '+PONG', () => false);

// Sends a short command to Redis and returns the raw answer, which must be short too.
function ask(port, words) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(`${words.join(' ')}\r\n`));
    socket.once('data', (data) => {
      socket.destroy();
      resolve(String(data).trimEnd());
    });
    socket.once('error', reject);
  });
}
