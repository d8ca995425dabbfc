// Tests the bare endpoint with a plain WebSocket.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  CONFIG, bare, connected, dataOf, inSeconds, startGateway, subscribed, token, until,
} from './support.mjs';

const ANN = token({ sub: 'ann', exp: inSeconds(60) });
const NO_ANONYMOUS = CONFIG.replace('allow_anonymous = true', '');

test('text and bytes come out as they went in', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const [one, other] = [await bare(t, gateway.raw('plain:a')), await bare(t, gateway.raw('plain:a'))];
  await until('both listen', async () => (await gateway.api('info')).nodes[0].num_subs === 2);
  const bytes = Buffer.from([0, 255, 10, 13, 200]);
  const sent = ['hello', '{"a": [1, 2]}', bytes, '', 'two\nlines'];
  for (const message of sent) one.send(message);
  for (const socket of [one, other]) {
    await until('all of them', () => socket.messages.length === sent.length);
    assert.deepEqual(socket.messages, sent);
  }
});

test('bare clients and clients of the library hear each other', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const plain = await subscribed(await connected(t, gateway.url), 'plain:a');
  const socket = await bare(t, gateway.raw('plain:a'));
  await until('both listen', async () => (await gateway.api('info')).nodes[0].num_subs === 2);
  socket.send('{"a":1}');
  socket.send('just text');
  socket.send(Buffer.from([0, 1, 255]));
  await until('three publications', () => plain.publications.length === 3);
  assert.deepEqual(dataOf(plain), [{ a: 1 }, 'just text', 'AAH/']);
  await plain.publish({ b: 2 });
  await gateway.publish('plain:a', [3]);
  await until('five messages', () => socket.messages.length === 5);
  assert.deepEqual(socket.messages.slice(3), ['{"b":2}', '[3]']);
});

test('a token travels in a header or in a subprotocol', async (t) => {
  const gateway = await startGateway(t, { config: NO_ANONYMOUS });
  const byHeader = await bare(t, gateway.raw('news:a'), [], { headers: { Authorization: `Bearer ${ANN}` } });
  const byProtocol = await bare(t, gateway.raw('news:a'), ['tidegate.raw', `tidegate.token.${ANN}`]);
  assert.equal(byProtocol.protocol, 'tidegate.raw');
  await until('both listen', async () => (await gateway.api('info')).nodes[0].num_subs === 2);
  byHeader.send('hello');
  await until('it arrives', () => byProtocol.messages.length === 1);
  assert.deepEqual(byProtocol.messages, ['hello']);
});

test('every refusal is a close that says why', async (t) => {
  const gateway = await startGateway(t, { config: NO_ANONYMOUS });
  const bearer = (value) => ({ headers: { Authorization: `Bearer ${value}` } });
  const closeOf = async (channel, options) => {
    const socket = await bare(t, gateway.raw(channel), [], options);
    assert.equal(socket.status, 101);
    return (await socket.closed).code;
  };
  assert.equal(await closeOf('news:a', {}), 3501, 'no token');
  assert.equal(await closeOf('news:a', bearer('nonsense')), 3500, 'a wrong token');
  assert.equal(await closeOf('news:a', bearer(token({ sub: 'ann', exp: inSeconds(-5) }))), 3500, 'an old token');
  assert.equal(await closeOf('nowhere:a', bearer(ANN)), 3501, 'an unknown channel');
  assert.equal(await closeOf('shut:a', bearer(ANN)), 3507, 'a channel of others');
});

test('a client that may not publish is closed when it does', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const socket = await bare(t, gateway.raw('news:a'));
  await until('it listens', async () => (await gateway.api('info')).nodes[0].num_subs === 1);
  await gateway.publish('news:a', 1);
  await until('it hears', () => socket.messages.length === 1);
  socket.send('me too');
  assert.equal((await socket.closed).code, 3507);
});

test('a client that comes back with a position gets what it missed', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  for (const number of [1, 2, 3]) await gateway.publish('news:a', number);
  const { epoch } = await gateway.api('history', { channel: 'news:a', limit: 0 });
  const socket = await bare(t, gateway.raw('news:a', `?offset=1&epoch=${epoch}`));
  await until('what was missed', () => socket.messages.length === 2);
  await gateway.publish('news:a', 4);
  await until('what is new', () => socket.messages.length === 3);
  assert.deepEqual(socket.messages, ['2', '3', '4']);

  const lost = await bare(t, gateway.raw('news:a', '?offset=1&epoch=another'));
  assert.equal((await lost.closed).code, 3010);
});

test('what the gateway compresses, a client that asked for it reads', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG });
  const long = JSON.stringify({ text: 'a long and repetitive text, '.repeat(100) });
  const packed = await bare(t, gateway.raw('plain:a'), [], { perMessageDeflate: true });
  const plain = await bare(t, gateway.raw('plain:a'), [], { perMessageDeflate: false });
  assert.match(packed.extensions, /permessage-deflate/);
  assert.equal(plain.extensions, '');
  await until('both listen', async () => (await gateway.api('info')).nodes[0].num_subs === 2);
  packed.send(long);
  for (const socket of [packed, plain]) {
    await until('it arrives', () => socket.messages.length === 1);
    assert.deepEqual(socket.messages, [long]);
  }
  assert.ok(packed._socket.bytesRead < plain._socket.bytesRead / 2, 'it is shorter on the wire');
});
