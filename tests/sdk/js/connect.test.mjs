// Tests who may connect, and who may stay connected.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, bare, client, connected, inSeconds, next, repliesOf, startGateway, subscribed, token, until,
} from './support.mjs';

const NO_ANONYMOUS = CONFIG.replace('allow_anonymous = true', '');

test('an anonymous client connects where this is allowed', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const { context } = await connected(t, gateway.url);
  assert.match(context.client, /^[0-9a-f-]{36}$/);
  assert.equal(context.transport, 'websocket');
});

test('the connect reply names the node, and how often it pings', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const socket = await bare(t, gateway.url);
  socket.send('{"id":1,"connect":{}}');
  await until('the reply', () => socket.messages.length);
  const [{ id, connect }] = repliesOf(socket);
  assert.equal(id, 1);
  assert.equal(connect.node, 'test-node');
  assert.deepEqual([connect.ping, connect.pong], [25, true]);
});

test('an anonymous client is refused for good where it is not allowed', async (t) => {
  const gateway = await startGateway(t, { config: NO_ANONYMOUS });
  const refused = client(t, gateway.url);
  const event = next(refused, 'disconnected');
  refused.connect();
  assert.equal((await event).code, 3501);
});

for (const algorithm of ['HS256', 'HS384', 'HS512']) {
  test(`a token signed with ${algorithm} says who the client is`, async (t) => {
    const gateway = await startGateway(t, { config: NO_ANONYMOUS });
    const claims = { sub: 'ann', exp: inSeconds(60), info: { name: 'Ann' } };
    const ann = await connected(t, gateway.url, { token: token(claims, { algorithm }) });
    const news = await subscribed(ann, 'news:a');
    const { clients } = await news.presence();
    const { user, connInfo, chanInfo } = clients[ann.context.client];
    assert.deepEqual([user, connInfo, chanInfo], ['ann', { name: 'Ann' }, undefined]);
  });
}

test('a token that is not right closes for good', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const cases = {
    'a wrong secret': token({ sub: 'ann' }, { secret: 'another secret of thirty-two bytes!!' }),
    'no token at all': 'nonsense',
    'no signature': token({ sub: 'ann' }).replace(/\.[^.]*$/, '.'),
    'no algorithm': `${Buffer.from('{"alg":"none"}').toString('base64url')}.${Buffer.from('{"sub":"ann"}').toString('base64url')}.`,
  };
  for (const [what, bad] of Object.entries(cases)) {
    const refused = client(t, gateway.url, { token: bad });
    const event = next(refused, 'disconnected');
    refused.connect();
    const { code, reason } = await event;
    assert.deepEqual([code, reason], [3500, 'invalid token'], what);
  }
});

test('an expired token makes the library fetch a new one and connect with it', async (t) => {
  const gateway = await startGateway(t, { config: NO_ANONYMOUS });
  let fetched = 0;
  const ann = await connected(t, gateway.url, {
    token: token({ sub: 'ann', exp: inSeconds(-10) }),
    getToken: async () => {
      fetched += 1;
      return token({ sub: 'ann', exp: inSeconds(60) });
    },
  });
  assert.equal(fetched, 1);
  assert.equal(ann.state, 'connected');
});

test('a connection whose token is refreshed in time outlives the token', async (t) => {
  const config = `${NO_ANONYMOUS}\n[session]\nexpired_close_delay_ms = 300\n`;
  const gateway = await startGateway(t, { config });
  let fetched = 0;
  const ann = await connected(t, gateway.url, {
    getToken: async () => {
      fetched += 1;
      return token({ sub: 'ann', exp: inSeconds(2) });
    },
  });
  const left = [];
  ann.on('connecting', (context) => left.push(context));
  await until('a third token', () => fetched >= 3);
  assert.deepEqual(left, []);
  assert.equal(ann.state, 'connected');
});

test('a connection whose token expires is closed with 3005', async (t) => {
  const config = `${CONFIG}\n[session]\nexpired_close_delay_ms = 100\n`;
  const gateway = await startGateway(t, { config });
  const socket = await bare(t, gateway.url);
  socket.send(JSON.stringify({ id: 1, connect: { token: token({ sub: 'ann', exp: inSeconds(2) }) } }));
  assert.deepEqual(await socket.closed, { code: 3005, reason: 'connection expired' });
  const [{ connect }] = repliesOf(socket);
  assert.equal(connect.expires, true);
  assert.ok(connect.ttl <= 2, `ttl ${connect.ttl}`);
});

test('a client that does not connect in time is closed with 3502', async (t) => {
  const gateway = await startGateway(t, { config: `${CONFIG}\n[session]\nconnect_timeout_ms = 100\n` });
  const socket = await bare(t, gateway.url);
  assert.deepEqual(await socket.closed, { code: 3502, reason: 'stale' });
});

test('a client that does not speak the protocol is closed with 3501', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  for (const message of ['not json', '{"id":1,"subscribe":{"channel":"news:a"}}', '{"connect":{}}', '{"id":1}', '']) {
    const socket = await bare(t, gateway.url);
    socket.send(message);
    assert.equal((await socket.closed).code, 3501, JSON.stringify(message));
  }
});

test('a message that is too long ends the connection for good', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const loud = await connected(t, gateway.url);
  const event = next(loud, 'disconnected');
  // 3 is the library's own code for a close with 1009.
  loud.publish('plain:a', 'x'.repeat(70_000)).catch(() => {});
  assert.equal((await event).code, 3);
});

