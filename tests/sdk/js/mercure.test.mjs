// Tests the Mercure hub with readers of server-sent events: updates of a template, private updates, and recovery.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { READERS } from './readers.mjs';
import { CONFIG, inSeconds, startGateway, startRelay, token, until } from './support.mjs';

const ON = { TIDEGATE_MERCURE__ENABLED: 'true' };
const PATH = '/.well-known/mercure';
const signed = (mercure) => token({ exp: inSeconds(60), mercure });

async function publish(gateway, fields) {
  const headers = { Authorization: `Bearer ${signed({ publish: ['*'] })}` };
  const response = await fetch(gateway.http(PATH), { method: 'POST', body: new URLSearchParams(fields), headers });
  const body = await response.text();
  assert.equal(response.status, 200, body);
  return body;
}

for (const [name, read] of Object.entries(READERS)) {
  test(`${name} follows a template, and goes on behind its last update when it was cut off`, async (t) => {
    const gateway = await startGateway(t, { config: CONFIG, env: ON });
    const relay = await startRelay(t, gateway.port);
    const topics = new URLSearchParams([['topic', 'https://example.com/books/{id}'], ['authorization', signed({ subscribe: ['/ann'] })]]);
    const told = read(t, `http://127.0.0.1:${relay.port}${PATH}?${topics}`);
    await until('it has begun', () => told.begun === 1);
    const book = (id) => ({ topic: `https://example.com/books/${id}` });
    const ids = [await publish(gateway, { ...book(1), data: 'one\ntwo', retry: '50' })];
    await publish(gateway, { ...book(2), data: 'not for Ann', private: 'on' });
    await publish(gateway, { topic: 'https://example.com/authors/1', data: 'not asked for' });
    ids.push(await publish(gateway, [['topic', 'https://example.com/books/3'], ['topic', '/ann'], ['data', 'for Ann'], ['private', 'on']]));
    await until('two updates', () => told.events.length >= 2);
    relay.cut();
    ids.push(await publish(gateway, { ...book(4), data: 'missed', id: 'urn:example:4' }));
    await publish(gateway, { ...book(5), data: 'not for Ann either', private: 'on' });
    relay.restore();
    await until('what was missed', () => told.events.length >= 3);
    ids.push(await publish(gateway, { ...book(6), data: 'live again' }));
    await until('what is new', () => told.events.length >= 4);
    assert.deepEqual(told.events.map(({ data }) => data), ['one\ntwo', 'for Ann', 'missed', 'live again']);
    assert.deepEqual(told.events.map(({ id }) => id), ids);
  });
}

test('an answer says after which update it begins', async (t) => {
  const gateway = await startGateway(t, { config: CONFIG, env: ON });
  const id = await publish(gateway, { topic: 'a', data: '1' });
  for (const [asked, header] of [[id, id], ['earliest', 'earliest'], ['never-there', 'earliest']]) {
    const stop = new AbortController();
    const response = await fetch(gateway.http(`${PATH}?topic=a`), { headers: { 'Last-Event-ID': asked }, signal: stop.signal });
    assert.deepEqual([response.status, response.headers.get('last-event-id')], [200, header]);
    stop.abort();
  }
});
