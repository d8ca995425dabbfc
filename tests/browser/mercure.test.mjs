// Tests Chromium's EventSource at the Mercure hub: a template, private updates with a cookie, named events, and recovery.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { SECRET, inSeconds, token } from '../support/token.mjs';
import { newPage, startGateway, startRelay, until } from './support.mjs';

const PATH = '/.well-known/mercure';
const ENV = { TIDEGATE_MERCURE__ENABLED: 'true', TIDEGATE_AUTH__HMAC_SECRET: SECRET, TIDEGATE_DEMO__FEED: 'false' };
const signed = (mercure) => token({ sub: 'ann', exp: inSeconds(60), mercure });

async function publish(gateway, fields) {
  const headers = { Authorization: `Bearer ${signed({ publish: ['*'] })}` };
  const response = await fetch(gateway.http(PATH), { method: 'POST', body: new URLSearchParams(fields), headers });
  assert.equal(response.status, 200);
  return response.text();
}

test('a page follows a template with its cookie, and goes on behind its last update when it was cut off', async (t) => {
  const gateway = await startGateway(t, { demo: true, env: ENV });
  const relay = await startRelay(t, gateway.port);
  const page = await newPage(t);
  await page.context().addCookies([
    { name: 'mercureAuthorization', value: signed({ subscribe: ['/users/ann'] }), domain: '127.0.0.1', path: '/' },
  ]);
  await page.goto(`http://127.0.0.1:${relay.port}/`);
  await page.evaluate((path) => {
    window.told = [];
    window.source = new EventSource(`${path}?topic=${encodeURIComponent('/books/{id}')}`, { withCredentials: true });
    const note = ({ type, data, lastEventId }) => window.told.push([type, data, lastEventId]);
    for (const type of ['message', 'changed']) window.source.addEventListener(type, note);
  }, PATH);
  const told = () => page.evaluate(() => window.told);
  await until('it is open', () => page.evaluate(() => window.source.readyState === EventSource.OPEN));
  const private_ = ['private', 'on'];
  const ids = [await publish(gateway, { topic: '/books/1', data: 'one\ntwo', type: 'changed', retry: '50' })];
  await publish(gateway, [['topic', '/books/1'], ['data', 'not for Ann'], private_]);
  ids.push(await publish(gateway, [['topic', '/books/2'], ['topic', '/users/ann'], ['data', 'for Ann'], private_]));
  await until('two updates', async () => (await told()).length === 2);
  relay.cut();
  ids.push(await publish(gateway, { topic: '/books/3', data: 'missed' }));
  relay.restore();
  await until('what was missed', async () => (await told()).length === 3);
  await gateway.api('publish', { channel: 'mercure:/books/4', data: 'by the API' });
  await until('what came another way', async () => (await told()).length === 4);
  const seen = await told();
  assert.deepEqual(seen.slice(0, 3), [
    ['changed', 'one\ntwo', ids[0]], ['message', 'for Ann', ids[1]], ['message', 'missed', ids[2]],
  ]);
  assert.deepEqual(seen[3].slice(0, 2), ['message', '"by the API"']);
});

test('an event with a name is not heard by onmessage, so a page asks for names', async (t) => {
  const gateway = await startGateway(t, { demo: true, env: { ...ENV, TIDEGATE_SSE__ENABLED: 'true' } });
  const page = await newPage(t);
  await page.goto(gateway.http('/'));
  await page.evaluate(() => {
    window.told = [];
    for (const query of ['', '&names=true']) {
      const source = new EventSource(`/sse?channel=chat:a${query}`);
      source.onmessage = ({ data }) => window.told.push(`message${query} ${data}`);
      source.addEventListener('price', ({ data }) => window.told.push(`price${query} ${data}`));
      source.addEventListener('subscribed', () => window.told.push('begun'));
      source.onerror = () => window.told.push('error');
    }
  });
  const told = () => page.evaluate(() => window.told.filter((one) => one !== 'begun'));
  await until('both have begun', () => page.evaluate(() => window.told.length === 2));
  await gateway.api('publish', { channel: 'chat:a', data: 1, tags: { event: 'price' } });
  // An event named `error` would look like the browser's own error event.
  await gateway.api('publish', { channel: 'chat:a', data: 2, tags: { event: 'error' } });
  await until('both have both', async () => (await told()).length === 4);
  assert.deepEqual((await told()).toSorted(), ['message 1', 'message 2', 'message&names=true 2', 'price&names=true 1']);
});
