// A cluster as it is deployed: nodes over one Redis behind HAProxy, which tests can kill and restart.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startGateway } from '../support/gateway.mjs';
import { freePort, startRedis } from '../support/redis.mjs';
import { SECRET } from '../support/token.mjs';
import { until } from '../support/wait.mjs';

const DEPLOYED = new URL('../../deploy/haproxy/haproxy.cfg', import.meta.url);

// All wires have their channels in the same namespaces, so that they share rooms. There are two namespaces because `NAMESPACE:*`
// means all topics to Mercure, and all clients to Socket.IO.
const namespace = (name) => `[namespaces.${name}]
history_size = 100000
history_ttl_s = 3600
force_recovery = true
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
allow_publish_for_client = true
[pusher.apps.${name}]
id = "${name}"
key = "key-of-${name}"
secret = "secret-of-${name}"
[graphql.subscriptions.${name}]
channel = "${name}:{room}"
`;

const config = (redis, drain) => `
[auth]
hmac_secret = "${SECRET}"
allow_anonymous = true
${namespace('all')}${namespace('io')}[sse]
enabled = true
retry_ms = 400
[mercure]
enabled = true
namespace = "all"
[pusher]
enabled = true
[graphql]
enabled = true
[socketio]
enabled = true
[socketio.namespaces."/"]
channels = "io"
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
[socketio.namespaces."/".events.said]
action = "publish"
room_argument = 0
[session]
recovery_limit_max = 100000
[http]
trusted_proxies = ["127.0.0.1/32"]
[broker]
kind = "redis"
[redis]
url = "${redis}"
[drain]
notice_ms = ${drain.noticeMs}
grace_ms = ${drain.graceMs}
`;

export class Cluster {
  constructor(t, drain) {
    this.t = t;
    this.drain = drain;
    this.nodes = [];
  }

  static async start(t, count, drain) {
    const cluster = new Cluster(t, drain);
    cluster.redis = await startRedis(t);
    cluster.ports = [];
    for (let index = 0; index < count; index += 1) cluster.ports.push({ port: await freePort(), internal: await freePort() });
    await Promise.all(cluster.ports.map((_, index) => cluster.startNode(index)));
    Object.assign(cluster, await startHaproxy(t, cluster.ports));
    await until('HAProxy has nodes', async () => (await fetch(cluster.http('/api/info')).catch(() => null))?.status === 401);
    for (const node of cluster.nodes) {
      await until('all nodes are known', async () => (await node.api('info')).nodes.length === count);
    }
    return cluster;
  }

  // Starts a node on the addresses under which HAProxy knows it.
  async startNode(index) {
    const { port, internal } = this.ports[index];
    const text = config(this.redis.url, this.drain);
    const node = await startGateway(this.t, { config: text, listen: port, internalListen: internal });
    await until('the node is ready', () => node.ready());
    this.nodes[index] = node;
  }

  // Returns an address at HAProxy, which chooses the node.
  http(path) {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  ws(path) {
    return `ws://127.0.0.1:${this.port}${path}`;
  }

  // Returns the number of nodes to which HAProxy sends clients.
  async up() {
    const figures = await (await fetch(`http://127.0.0.1:${this.figures}/metrics`)).text();
    return Number(/^haproxy_backend_active_servers\{proxy="gateways"\} (\d+)/m.exec(figures)?.[1] ?? 0);
  }

  // Returns the number of a node's clients by protocol.
  async connections(index) {
    const lines = (await this.nodes[index].metrics()).matchAll(/^tidegate_connections\{protocol="(\w+)"\} (\d+)/gm);
    return Object.fromEntries([...lines].map(([, protocol, count]) => [protocol, Number(count)]));
  }

  // Returns all publications of a channel in order, in several pages because a response is limited in bytes.
  async history(channel) {
    const keys = [];
    for (let since; ; ) {
      const page = await this.nodes[0].api('history', { channel, limit: 1_000, ...(since && { since }) });
      if (page.publications.length === 0) return keys;
      keys.push(...page.publications.map(({ data }) => keyOf(data)));
      since = { offset: page.publications.at(-1).offset, epoch: page.epoch };
    }
  }
}

// Identifies a publication by its publisher and the publisher's number for it.
export const keyOf = ({ by, number }) => `${by} ${number}`;

async function startHaproxy(t, ports) {
  const directory = mkdtempSync(join(tmpdir(), 'tidegate-haproxy-'));
  const file = join(directory, 'haproxy.cfg');
  const [port, figures] = [await freePort(), await freePort()];
  const servers = ports.map(({ port, internal }, index) =>
    `    server gateway${index + 1} 127.0.0.1:${port} check port ${internal}`);
  const changes = [
    [/^ {4}bind :8000$/m, `    bind 127.0.0.1:${port}`],
    [/^ {4}bind :8404$/m, `    bind 127.0.0.1:${figures}`],
    // These ports and files exist only in the container.
    [/^ {4}stats socket .*\n/m, ''],
    [/^ {4}server-state-file .*\n/m, ''],
    [/^ {4}load-server-state-from-file .*\n/m, ''],
    [/^resolvers engine\n(?: .*\n)+/m, ''],
    [/^ {4}server-template .*$/m, servers.join('\n')],
  ];
  let text = readFileSync(DEPLOYED, 'utf8');
  for (const [shipped, here] of changes) {
    if (!shipped.test(text)) throw new Error(`${DEPLOYED.pathname} has no ${shipped} any more`);
    text = text.replace(shipped, here);
  }
  writeFileSync(file, text);
  const child = spawn('haproxy', ['-f', file, '-db'], { stdio: 'ignore' });
  const gone = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', resolve);
  });
  process.on('exit', () => child.kill('SIGKILL'));
  t.after(async () => {
    child.kill('SIGKILL');
    await gone;
    rmSync(directory, { recursive: true, force: true });
  });
  await until('HAProxy listens', () => {
    if (child.exitCode !== null) throw new Error(`HAProxy ended with ${child.exitCode}`);
    return listens(port);
  });
  return { port, figures };
}

function listens(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
