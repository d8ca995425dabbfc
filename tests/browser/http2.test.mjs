// Tests the ticker page over TLS: the browser has one HTTP/2 connection, and its WebSocket is a stream of it (RFC 8441).

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { makeCertificate } from '../support/certificate.mjs';
import { cards, counters, inState, newPage, startGateway, until } from './support.mjs';

test('a browser asks for its WebSocket over the HTTP/2 connection that it has', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: makeCertificate(t).config });
  const page = await newPage(t, { ignoreHTTPSErrors: true });
  const handshakes = [];
  const watching = await page.context().newCDPSession(page);
  await watching.send('Network.enable');
  watching.on('Network.webSocketHandshakeResponseReceived', ({ response }) => handshakes.push(response));
  const loaded = await page.goto(`https://localhost:${gateway.port}/`);
  assert.equal(loaded.status(), 200);
  await inState(page, 'connected');
  const protocols = await page.evaluate(() => performance.getEntriesByType('navigation').map((entry) => entry.nextHopProtocol));
  assert.deepEqual(protocols, ['h2']);
  // An upgrade over HTTP/1.1 would be answered with 101.
  assert.deepEqual(handshakes.map(({ status }) => status), [200]);
  await until('prices have moved', async () => (await cards(page)).every(({ offset }) => offset > 3));
  const { holes, duplicates, unrecovered } = await counters(page);
  assert.deepEqual([holes, duplicates, unrecovered], [0, 0, 0]);
});
