// The ticker page, which draws what the client receives.

import { TickerClient } from './ticker-client.js';
import { sparkline } from './sparkline.js';

const POINTS = 120; // Prices in a sparkline.
const ASLEEP_DAYS = 7; // A share whose last price is this far from the replayed day counts as not traded.
const RATE_SECONDS = 5; // The span over which messages a second are averaged.
const NAMES = { AAPL: 'Apple', FB: 'Facebook', GOOG: 'Google', IBM: 'IBM', MSFT: 'Microsoft' };

const asked = new URLSearchParams(location.search).get('symbols');
const symbols = asked ? asked.split(',').filter(Boolean).slice(0, 64) : Object.keys(NAMES);

const byId = (id) => document.getElementById(id);
const page = byId('ticker');
const money = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const percent = new Intl.NumberFormat('en', { style: 'percent', minimumFractionDigits: 2, maximumFractionDigits: 2 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const longDate = new Intl.DateTimeFormat('en-GB', { dateStyle: 'long', timeZone: 'UTC' });

const shares = new Map(symbols.map((symbol) => [`prices:${symbol}`, makeShare(symbol)]));
let today = ''; // The replayed day.
let drawing = false;

const origin = location.origin.replace(/^http/, 'ws');
const client = new TickerClient(`${origin}/connection/websocket`, {
  onChange: schedule,
  onPublication(channel, { data, offset }) {
    if (add(shares.get(channel), data, offset)) today = data.date;
    schedule();
  },
  // A subscription without recovery begins with the channel's history, which draws the line so far.
  async onSubscribed(channel) {
    const share = shares.get(channel);
    share.seen = [];
    try {
      const past = await client.history(channel, POINTS);
      const live = share.seen.filter(({ offset }) => offset > (past.at(-1)?.offset ?? 0));
      share.seen = [];
      for (const { data, offset } of [...past, ...live]) add(share, data, offset);
      today ||= share.seen.at(-1)?.data.date ?? '';
      schedule();
    } catch {
      // The line begins now: the channel has no history, or the connection was lost meanwhile.
    }
  },
  onRefused(channel, message) {
    shares.get(channel).part('range').textContent = `Refused: ${message}`;
  },
});

byId('origin').textContent = origin;
byId('cut').addEventListener('click', () => (client.state === 'connected' ? client.drop() : client.connect()));
byId('delivery').addEventListener('change', async ({ target }) => {
  const [delivery, times] = target.value.split(' ');
  try {
    await client.choose(delivery ? { delivery, times_per_s: Number(times) } : null);
  } catch {
    // The connection was lost meanwhile: the client reconnects with the new choice.
  }
});
addEventListener('online', () => client.state === 'waiting' && client.connect());
setInterval(measure, 1000);

for (const channel of shares.keys()) client.subscribe(channel);
client.connect();

function makeShare(symbol) {
  const card = byId('card').content.firstElementChild.cloneNode(true);
  const part = (name) => card.querySelector(`.${name}`);
  card.dataset.symbol = symbol;
  part('symbol').textContent = symbol;
  part('name').textContent = NAMES[symbol] === symbol ? '' : (NAMES[symbol] ?? '');
  byId('cards').insertBefore(card, page.querySelector('.node'));
  return { symbol, card, part, seen: [], changed: false, asleep: false };
}

// Adds a price, and returns whether it was one, since anyone can publish anything.
function add(share, data, offset) {
  if (!Number.isFinite(data?.close) || Number.isNaN(Date.parse(data.date))) return false;
  // The replay has started over: the old line does not lead to the new price.
  if (data.date < share.seen.at(-1)?.data.date) share.seen = [];
  share.seen.push({ data, offset });
  if (share.seen.length > POINTS) share.seen.shift();
  share.changed = true;
  return true;
}

// Draws the page at most once per frame, however much arrives.
function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  for (const share of shares.values()) drawShare(share);
  const { counts } = client;
  if (today) {
    byId('date').dateTime = today;
    byId('date').textContent = longDate.format(new Date(today));
  }
  text('node', client.node || '–');
  text('recovered', counts.recovered);
  text('missed', counts.unrecovered ? 'some, the history is too short' : counts.holes);
  text('repeated', counts.duplicates);
  text('superseded', counts.superseded);
  Object.assign(page.dataset, counts, { node: client.node, client: client.client });
  drawState();
}

function drawShare(share) {
  const { card, part, seen } = share;
  if (!seen.length) return;
  const asleep = daysBetween(seen.at(-1).data.date, today) > ASLEEP_DAYS;
  card.classList.toggle('asleep', asleep);
  if (!share.changed && asleep === share.asleep) return;
  share.changed = false;
  share.asleep = asleep;

  const { data, offset } = seen.at(-1);
  const before = seen.at(-2)?.data.close ?? data.open;
  const change = data.close - before;
  const direction = change > 0 ? 'up' : change < 0 ? 'down' : 'flat';
  const sign = { up: '+', down: '−', flat: '±' }[direction];
  Object.assign(card.dataset, { offset, close: data.close, date: data.date });

  part('price').firstElementChild.value = data.close;
  part('price').firstElementChild.textContent = money.format(data.close);
  part('change').dataset.direction = direction;
  part('arrow').textContent = { up: '▲', down: '▼', flat: '◆' }[direction];
  part('amount').textContent = sign + money.format(Math.abs(change));
  part('percent').textContent = sign + percent.format(Math.abs(change / before));
  part('range').textContent = asleep ? 'Not traded at this time' : range(data);
  part('volume').textContent = !asleep && Number.isFinite(data.volume) ? `${compact.format(data.volume)} shares` : '';

  const closes = seen.map(({ data: { close } }) => close);
  const { line, area, end } = sparkline(closes, POINTS);
  part('line').setAttribute('d', line);
  part('area').setAttribute('d', area);
  part('end').hidden = false;
  part('end').style.left = `${end.x}%`;
  part('end').style.top = `${end.y}%`;
  const chart = `${share.symbol}: ${closes.length} days, from ${money.format(closes[0])} to ${money.format(data.close)}`;
  card.querySelector('svg').setAttribute('aria-label', chart);
}

function drawState() {
  const seconds = Math.max(1, Math.ceil((client.retryAt - Date.now()) / 1000));
  const why = client.reason ? ` (${client.reason})` : '';
  const shown = {
    idle: 'Starting',
    connecting: client.counts.connects ? 'Reconnecting' : 'Connecting',
    connected: 'Live',
    waiting: `Connection lost, back in ${seconds} s`,
    closed: `Closed${why}`,
  }[client.state];
  page.dataset.state = client.state;
  text('state', shown);
  byId('state').title = client.state === 'waiting' ? client.reason : '';
  text('cut', client.state === 'connected' ? 'Cut the connection' : 'Connect now');
  byId('cut').disabled = client.state === 'connecting';
}

// Once a second: the rate of messages, and the countdown to the next attempt.
const ticks = [];
function measure() {
  ticks.push({ at: performance.now(), messages: client.counts.messages });
  if (ticks.length > RATE_SECONDS + 1) ticks.shift();
  const [first, last] = [ticks[0], ticks.at(-1)];
  const seconds = (last.at - first.at) / 1000;
  text('rate', seconds ? ((last.messages - first.messages) / seconds).toFixed(1) : '0');
  drawState();
}

function range({ low, high }) {
  return Number.isFinite(low) && Number.isFinite(high) ? `Day ${money.format(low)} – ${money.format(high)}` : '';
}

function text(id, value) {
  const element = byId(id);
  if (element.textContent !== String(value)) element.textContent = value;
}

function daysBetween(from, to) {
  return Math.abs(new Date(to) - new Date(from)) / 86_400_000;
}
