// Tests the ticker page in a real browser, against a real gateway.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import {
  SYMBOLS, cards, counters, inState, newPage, openTicker, screenshot, startGateway, startRelay, until,
} from './support.mjs';

const NAMED = '[node]\nname = "tidegate-1"\n';

async function untilMoved(page, from) {
  const before = new Map(from.map(({ symbol, offset }) => [symbol, offset]));
  await until('every price has moved', async () =>
    (await cards(page)).every(({ symbol, offset }) => offset > before.get(symbol)),
  );
}

test('the page shows five shares whose prices move, and the node they come from', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: NAMED });
  const page = await openTicker(t, gateway.port);
  await inState(page, 'connected');
  const first = await until('five prices', async () => {
    const shown = await cards(page);
    return shown.every(({ offset }) => offset > 0) && shown;
  });
  assert.deepEqual(first.map(({ symbol }) => symbol), SYMBOLS);
  await untilMoved(page, first);

  assert.equal(await page.locator('#state').textContent(), 'Live');
  assert.equal(await page.locator('#node').textContent(), 'tidegate-1');
  assert.match(await page.locator('#date').textContent(), /^\d+ [A-Z][a-z]+ 201[23]$/);
  await until('a rate of messages', async () => Number(await page.locator('#rate').textContent()) > 5);
  const lines = await page.locator('.share .line').evaluateAll((all) => all.map((line) => line.getAttribute('d')));
  for (const line of lines) assert.match(line, /^M[\d.]+,[\d.]+(L[\d.]+,[\d.]+)+$/);
  const { holes, duplicates, unrecovered } = await counters(page);
  assert.deepEqual([holes, duplicates, unrecovered], [0, 0, 0]);
  assert.deepEqual(page.complaints, []);
});

test('the prices that are shown are those of the file', async (t) => {
  const file = readFileSync(new URL('../../gateway/demo/prices.csv', import.meta.url), 'utf8');
  const closes = new Map(
    file.trim().split('\n').slice(1).map((row) => row.split(',')).map((row) => [`${row[0]} ${row[1]}`, Number(row[5])]),
  );
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port);
  await inState(page, 'connected');
  const seen = new Set();
  await until('fifty prices', async () => {
    for (const { symbol, date, close, offset } of await cards(page)) {
      if (!offset) continue;
      assert.equal(close, closes.get(`${date} ${symbol}`), `${symbol} on ${date}`);
      seen.add(`${symbol} ${offset}`);
    }
    return seen.size >= 50;
  });
});

test('after its connection is cut the page comes back and has missed nothing', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: NAMED });
  const relay = await startRelay(t, gateway.port);
  const page = await openTicker(t, relay.port);
  await inState(page, 'connected');
  await until('some prices', async () => (await counters(page)).messages > 20);

  relay.cut();
  await inState(page, 'waiting');
  assert.match(await page.locator('#state').textContent(), /^Connection lost, back in \d+ s$/);
  await screenshot(page, 'connection-lost');
  const frozen = await cards(page);
  await until('each share has moved on', async () => {
    const tops = SYMBOLS.map((symbol) => gateway.api('history', { channel: `prices:${symbol}`, limit: 0 }));
    return (await Promise.all(tops)).every(({ offset }, index) => offset > frozen[index].offset + 3);
  });
  relay.restore();
  await inState(page, 'connected');
  await untilMoved(page, frozen);
  const { recovered, unrecovered, holes, duplicates, connects } = await counters(page);
  assert.ok(recovered >= 15, `${recovered} recovered`);
  assert.deepEqual([unrecovered, holes, duplicates, connects], [0, 0, 0, 2]);
  await screenshot(page, 'recovered');
});

test('the page notices a connection that has gone silent', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const relay = await startRelay(t, gateway.port);
  const page = await openTicker(t, relay.port, { prepare: (fresh) => fresh.clock.install() });
  await inState(page, 'connected');
  await until('some prices', async () => (await counters(page)).messages > 5);
  relay.stall();
  // The server pings every 25 s, and the page waits 10 s more.
  await page.clock.fastForward(36_000);
  await inState(page, 'waiting');
  assert.equal(await page.locator('#state').getAttribute('title'), 'no ping');
  await page.clock.fastForward(2_000);
  await inState(page, 'connected');
  await until('what was missed', async () => (await counters(page)).recovered > 0);
  const { holes, duplicates } = await counters(page);
  assert.deepEqual([holes, duplicates], [0, 0]);
});

test('a close that asks for it brings the page back, one that forbids it does not', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port);
  const close = async (code) => {
    const { client } = await counters(page);
    await gateway.api('disconnect', { client, disconnect: { code, reason: 'because' } });
  };
  for (const [index, code] of [3012, 4000].entries()) {
    await inState(page, 'connected');
    await close(code);
    await until(`it is back after ${code}`, async () => (await counters(page)).connects === index + 2);
  }
  await inState(page, 'connected');
  await close(4500);
  await inState(page, 'closed');
  assert.equal(await page.locator('#state').textContent(), 'Closed (because)');
  await page.getByRole('button', { name: 'Connect now' }).click();
  await inState(page, 'connected');
});

test('the page can cut its own connection and show how it recovers', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port);
  await inState(page, 'connected');
  await until('some prices', async () => (await counters(page)).messages > 5);
  await page.getByRole('button', { name: 'Cut the connection' }).click();
  await inState(page, 'waiting');
  await inState(page, 'connected');
  await until('what was missed', async () => (await counters(page)).recovered > 0);
});

test('a publication that is lost or repeated on the way does not go unnoticed', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const tamper = (page) =>
    page.routeWebSocket(/websocket$/, (client) => {
      const server = client.connectToServer();
      let seen = 0;
      server.onMessage((message) => {
        seen += message.includes('"pub"') && message.includes('IBM') ? 1 : 0;
        if (seen === 3) return; // Lost.
        client.send(message);
        if (seen === 5) client.send(message); // Repeated.
      });
    });
  const page = await openTicker(t, gateway.port, { prepare: tamper });
  await until('both', async () => {
    const { holes, duplicates } = await counters(page);
    return holes >= 1 && duplicates >= 1;
  });
});

test('shares of one’s own are shown too, and what is no price does no harm', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port, { path: '/?symbols=TSLA,NONE' });
  await inState(page, 'connected');
  for (const data of ['nonsense', [], { close: 'x' }, { close: 1, date: 'never' }]) {
    await gateway.publish('prices:TSLA', data);
  }
  await gateway.publish('prices:TSLA', { date: '2013-03-01', close: 33.9 });
  const shown = await until('a price', async () => {
    const [tesla] = await cards(page);
    return tesla.offset > 0 && tesla;
  });
  assert.deepEqual(shown, { symbol: 'TSLA', offset: 5, close: 33.9, date: '2013-03-01' });
  assert.deepEqual(page.complaints, []);
});

test('the page is whole on a phone and in the dark', async (t) => {
  const gateway = await startGateway(t, { demo: true, config: NAMED });
  const sizes = {
    desktop: { viewport: { width: 1280, height: 900 } },
    dark: { viewport: { width: 1280, height: 900 }, colorScheme: 'dark' },
    phone: { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2 },
  };
  const grounds = {};
  for (const [name, options] of Object.entries(sizes)) {
    const page = await openTicker(t, gateway.port, options);
    await inState(page, 'connected');
    await until('five prices', async () => (await cards(page)).every(({ offset }) => offset > 0));
    await until('a rate of messages', async () => (await page.locator('#rate').textContent()) !== '0');
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${name}: ${overflow} pixels too wide`);
    grounds[name] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await screenshot(page, name);
  }
  assert.notEqual(grounds.desktop, grounds.dark);
});

test('ten lines of browser JavaScript are a client of the bare endpoint', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port);
  const heard = await page.evaluate(async () => {
    const messages = [];
    const socket = new WebSocket(`ws://${location.host}/raw/chat:hello`, ['tidegate.raw']);
    socket.binaryType = 'arraybuffer';
    await new Promise((resolve) => (socket.onopen = resolve));
    socket.send('hello');
    socket.send(new Uint8Array([0, 255]));
    await new Promise((resolve) => {
      socket.onmessage = ({ data }) => {
        messages.push(typeof data === 'string' ? data : [...new Uint8Array(data)]);
        if (messages.length === 2) resolve();
      };
    });
    socket.close();
    return { messages, protocol: socket.protocol };
  });
  assert.deepEqual(heard, { messages: ['hello', [0, 255]], protocol: 'tidegate.raw' });
});

test('a page on another port of this machine may connect to the demo, and elsewhere only where it is named', async (t) => {
  const strict = '[http]\nallowed_origins = ["same-origin"]';
  const [demo, other] = [await startGateway(t, { demo: true }), await startGateway(t, { demo: true, config: strict })];
  const page = await newPage(t, { bypassCSP: true });
  const opens = (url) =>
    page.evaluate(
      (url) =>
        new Promise((resolve) => {
          const socket = new WebSocket(url);
          socket.onopen = () => resolve(true);
          socket.onerror = () => resolve(false);
        }),
      url,
    );
  for (const host of ['127.0.0.1', 'localhost']) {
    await page.goto(`http://${host}:${other.port}/`);
    assert.equal(await opens(demo.url), true, `from ${host}`);
  }
  await page.goto(`http://127.0.0.1:${demo.port}/`);
  assert.equal(await opens(other.url), false);
});

test('without the demo there is no page', async (t) => {
  const gateway = await startGateway(t);
  const response = await fetch(`http://127.0.0.1:${gateway.port}/`);
  assert.equal(response.status, 404);
  const demo = await startGateway(t, { demo: true });
  const page = await fetch(`http://127.0.0.1:${demo.port}/`);
  assert.equal(page.status, 200);
  assert.match(page.headers.get('content-security-policy'), /default-src 'none'/);
});

test('the latest price can be asked for, so many times a second, and what gives way to it is counted', async (t) => {
  const gateway = await startGateway(t, { demo: true });
  const page = await openTicker(t, gateway.port);
  await inState(page, 'connected');
  await until('some prices', async () => (await counters(page)).messages > 5);
  const choose = (label) => page.getByLabel('Prices').selectOption({ label });
  assert.equal((await counters(page)).superseded, 0);

  await choose('the latest, once a second');
  // Each share has four prices per second, three of which are superseded.
  await until('prices gave way', async () => (await counters(page)).superseded > 10);
  const { superseded, messages } = await counters(page);
  assert.equal(Number(await page.locator('#superseded').textContent()), superseded);
  await untilMoved(page, await cards(page));
  await screenshot(page, 'latest');

  await choose('the latest');
  await until('changed while it lives', async () => (await counters(page)).messages > messages + 20);
  const settled = await counters(page);
  await until('all prices of a quick reader', async () => (await counters(page)).messages > settled.messages + 20);
  assert.ok((await counters(page)).superseded - settled.superseded < 5, 'a quick reader is sent all of them');

  await choose('all of them');
  await until('all are counted again', async () => (await counters(page)).messages > settled.messages + 60);
  const { holes, duplicates, unrecovered, connects } = await counters(page);
  assert.deepEqual([holes, duplicates, unrecovered, connects], [0, 0, 0, 1]);
  assert.deepEqual(page.complaints, []);
});
