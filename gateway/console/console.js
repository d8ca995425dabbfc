// The console's views, and the requests that fill them.

import { ask, metrics, readiness, settings } from './ask.js';
import { parse, quantile, rate, rates, total, totals } from './figures.js';
import { morph } from './morph.js';
import { Plot } from './plot.js';
import { address, age, ago, bytes, count, el, facts, field, form, json, link, seconds, several, table } from './show.js';

const INTERVAL_MS = 2_000;
const SAMPLES = 60;
const LIST_MAX = 200;
const HISTORY_MAX = 20;

const main = document.getElementById('main');
const state = document.getElementById('state');

let may = { read_only: true };
let nodes = [];
// The current view. Its elements are created when it is opened; `refresh` updates its live parts.
let shown = { refresh: async () => {} };

// ---- Figures of this node, which are updated in every view.

const plots = [
  { plot: new Plot({ title: 'Publications a second', series: ['in'], format: count, samples: SAMPLES }),
    values: (before, now, s) => [rate(before, now, 'tidegate_publications_in_total', s)] },
  { plot: new Plot({ title: 'Deliveries a second', series: ['out'], format: count, samples: SAMPLES }),
    values: (before, now, s) => [rate(before, now, 'tidegate_deliveries_out_total', s)] },
  { plot: new Plot({ title: 'From publication to the last socket', series: ['p50', 'p99'], format: seconds, samples: SAMPLES }),
    values: (before, now) => [0.5, 0.99].map((part) => quantile(before, now, 'tidegate_publish_to_socket_seconds', part)) },
  { plot: new Plot({ title: 'Connections', series: ['here'], format: count, whole: true, samples: SAMPLES }),
    values: (_, now) => [total(now, 'tidegate_connections')] },
];

let last = null;
// This node's figures for each namespace.
let namespaces = [];

function lookAtNamespaces(before, now, elapsed) {
  const each = (name) => rates(before, now, `tidegate_namespace_${name}`, 'namespace', elapsed);
  const gauge = (name) => totals(now, `tidegate_namespace_${name}`, 'namespace');
  const columns = {
    subscriptions: gauge('subscriptions'), channels: gauge('channels'), into: each('publications_in_total'), out: each('deliveries_out_total'),
    sent: each('bytes_out_total'), history: each('history_reads_total'), refused: each('refusals_total'), untaken: each('publications_refused_total'),
  };
  const row = (name) => Object.fromEntries(Object.entries(columns).map(([column, values]) => [column, values.get(name) ?? 0]));
  return [...columns.subscriptions.keys()].sort().map((name) => ({ name, ...row(name) }));
}

async function look() {
  const [text, ready, info] = await Promise.all([metrics(), readiness(), ask('info')]);
  const now = { at: Date.now(), samples: parse(text) };
  nodes = info.nodes;
  // A rate over a short interval would be far from the ones beside it.
  if (last && now.at - last.at < INTERVAL_MS / 2) return ready;
  if (last) {
    const elapsed = (now.at - last.at) / 1_000;
    for (const { plot, values } of plots) plot.push(now.at, values(last.samples, now.samples, elapsed));
    namespaces = lookAtNamespaces(last.samples, now.samples, elapsed);
  }
  last = now;
  return ready;
}

function tell(kind, text) {
  state.dataset.state = kind;
  document.getElementById('state-text').textContent = text;
}

async function go() {
  try {
    const ready = await look();
    await shown.refresh();
    if (ready.ready) tell('well', 'Ready');
    else tell('warned', `Not ready: ${ready.reasons.join(', ')}`);
  } catch (error) {
    tell('lost', error.message);
  }
  setTimeout(go, INTERVAL_MS);
}

const nodeName = (uid) => nodes.find((node) => node.uid === uid)?.name ?? uid;

const missing = (answer) => answer.missing_nodes && el('p', { class: 'note wrong' }, `Incomplete: no answer came from ${answer.missing_nodes.join(', ')}.`);

// Creates a part of the page with contents that are refreshed.
function live(refresh) {
  const part = el('div');
  return { part, refresh: async () => morph(part, (await refresh()).filter(Boolean)) };
}

// ---- Views. Each returns its contents, and the function that refreshes them.

function overview() {
  const { part, refresh } = live(async () => {
    const sum = (key) => nodes.reduce((all, node) => all + (node[key] ?? 0), 0);
    const stats = [['Nodes', nodes.length], ['Clients', sum('num_clients')], ['Subscriptions', sum('num_subs')]];
    return [
      el('ul', { class: 'stats' }, stats.map(([name, value]) => el('li', {}, el('strong', {}, count(value)), ' ', name))),
      table([
        { title: 'Node', cell: (node) => node.name },
        { title: 'Version', cell: (node) => node.version },
        { title: 'Clients', number: true, cell: (node) => count(node.num_clients) },
        { title: 'Users', number: true, cell: (node) => count(node.num_users) },
        { title: 'Channels', number: true, cell: (node) => count(node.num_channels) },
        { title: 'Subscriptions', number: true, cell: (node) => count(node.num_subs ?? 0) },
        { title: 'Up', number: true, cell: (node) => age(node.uptime) },
      ], nodes, 'No node has announced itself.'),
    ];
  });
  const here = live(async () => [
    table([
      { title: 'Namespace', cell: (row) => row.name },
      { title: 'Subscriptions', number: true, cell: (row) => count(row.subscriptions) },
      { title: 'Channels', number: true, cell: (row) => count(row.channels) },
      { title: 'In a second', number: true, cell: (row) => count(row.into) },
      { title: 'Out a second', number: true, cell: (row) => count(row.out) },
      { title: 'Bytes a second', number: true, cell: (row) => bytes(row.sent) },
      { title: 'History reads', number: true, cell: (row) => count(row.history) },
      { title: 'Refused', number: true, cell: (row) => count(row.refused + row.untaken) },
    ], namespaces, 'The figures appear in a moment.'),
  ]);
  return {
    content: [
      el('h1', {}, 'Overview'), part, el('h2', {}, 'This node'), el('div', { class: 'plots' }, plots.map(({ plot }) => plot.element)),
      el('h2', {}, 'Namespaces of this node'), here.part,
    ],
    refresh: async () => { await refresh(); await here.refresh(); },
  };
}

const channelRows = (channels) => table([
  { title: 'Channel', cell: (row) => link(row.name, 'channel', row.name) },
  { title: 'Subscribers', number: true, cell: (row) => count(row.clients) },
], channels, 'No channel with this name has subscribers.');

function channels(pattern = '') {
  const { part, refresh } = live(async () => {
    const plain = pattern && !/[*?[{\\]/.test(pattern);
    const answer = await ask('channels', { pattern: plain ? `*${pattern}*` : pattern, limit: LIST_MAX });
    const rows = Object.entries(answer.channels).map(([name, { num_clients: clients }]) => ({ name, clients }));
    return [channelRows(rows), answer.cursor && el('p', { class: 'note' }, `The first ${LIST_MAX}, by name.`), missing(answer)];
  });
  const input = el('input', { name: 'pattern', type: 'search', value: pattern, placeholder: 'part of a name, or prices:*', autocomplete: 'off' });
  const search = form([field('Channel', input)], 'Search', (values) => {
    location.hash = address('channels', ...(values.pattern ? [values.pattern] : []));
  });
  return { content: [el('h1', {}, 'Channels'), search, part], refresh };
}

const publicationRows = (publications) => table([
  { title: 'Offset', number: true, cell: (one) => one.offset ?? '' },
  { title: 'Data', cell: (one) => (one.data === undefined ? el('em', {}, 'bytes') : json(one.data)) },
  { title: 'Tags', cell: (one) => (one.tags ? json(one.tags) : '') },
  { title: 'By', cell: (one) => (one.info ? link(one.info.user || one.info.client, 'client', one.info.client) : '') },
], publications, 'No publications are retained.');

// Data that the channel does not retain is shown as absent, not as an error of the page.
const orNone = (asked) => asked.catch((error) => ({ none: error.message }));

// Presence counts all clients without a user as one user.
function present({ num_clients: clients, num_users: users }, { connections }) {
  const anonymous = Object.values(connections).some(({ user }) => !user);
  return `${several(clients, 'client')}, ${several(users, 'user')}${anonymous ? ' (anonymous clients count as one)' : ''}`;
}

function channel(name) {
  const { part, refresh } = live(async () => {
    const [stats, history, presence, connections] = await Promise.all([
      ask('channels', { pattern: name.replace(/[*?[\]{}\\,]/g, '\\$&') }),
      orNone(ask('history', { channel: name, limit: HISTORY_MAX, reverse: true })),
      orNone(ask('presence_stats', { channel: name })),
      ask('connections', { channel: name, limit: LIST_MAX }),
    ]);
    return [
      facts([
        ['Subscribers', count(stats.channels[name]?.num_clients ?? 0)],
        ['Present', presence.none ? '–' : present(presence, connections)],
        ['Position', history.none ? '–' : `${history.offset} of ${history.epoch}`],
      ]),
      el('h2', {}, 'Latest publications'),
      history.none ? el('p', { class: 'note' }, `Not available: ${history.none}.`) : publicationRows(history.publications),
      el('h2', {}, 'Subscribers'),
      connectionRows(connections),
      missing(connections),
    ];
  });
  return {
    content: [el('h1', {}, name), publishForm(name), part],
    refresh,
  };
}

function publishForm(name) {
  if (may.read_only) return null;
  const input = el('input', { name: 'channel', value: name ?? '', required: true, autocomplete: 'off' });
  return form([
    name === undefined && field('Channel', input),
    field('Data (JSON)', el('textarea', { name: 'data', rows: 3, required: true, spellcheck: 'false' })),
  ], 'Publish', async (values) => {
    let data;
    try {
      data = JSON.parse(values.data);
    } catch (error) {
      throw new Error(`The data is not JSON: ${error.message}`);
    }
    const { offset, epoch } = await ask('publish', { channel: name ?? values.channel, data });
    return epoch ? `Published at the offset ${offset}.` : 'Published.';
  });
}

const connectionRows = (answer) => table([
  { title: 'Client', cell: (row) => link(row.client, 'client', row.client) },
  { title: 'User', cell: (row) => row.user && link(row.user, 'connections', row.user) },
  { title: 'Node', cell: (row) => nodeName(row.node) },
  { title: 'Speaks', cell: (row) => `${row.protocol}, ${row.transport}` },
  { title: 'Channels', number: true, cell: (row) => count(row.num_channels) },
  { title: 'Up', number: true, cell: (row) => age(row.uptime) },
], Object.entries(answer.connections).map(([client, row]) => ({ client, ...row })), 'No client is connected.');

function connections(user = '') {
  const { part, refresh } = live(async () => {
    const answer = await ask('connections', { user, limit: LIST_MAX });
    return [connectionRows(answer), answer.cursor && el('p', { class: 'note' }, `The first ${LIST_MAX}.`), missing(answer)];
  });
  const search = form([
    field('User', el('input', { name: 'user', type: 'search', value: user, placeholder: 'any user', autocomplete: 'off' })),
    field('or client', el('input', { name: 'client', type: 'search', autocomplete: 'off' })),
  ], 'Search', (values) => {
    location.hash = values.client ? address('client', values.client) : address('connections', ...(values.user ? [values.user] : []));
  });
  return { content: [el('h1', {}, 'Connections'), search, part], refresh };
}

function client(id) {
  const { part, refresh } = live(async () => {
    const [{ connection, ...rest }, { closes: closed }] = await Promise.all([ask('inspect', { client: id }), ask('closes', { client: id, limit: 5 })]);
    if (!connection) {
      return [el('p', { class: 'note' }, 'No client with this id is connected.'), missing(rest), closed.length > 0 && closeRows(closed)];
    }
    return [
      facts([
        ['User', connection.user ? link(connection.user, 'connections', connection.user) : 'anonymous'],
        ['Node', nodeName(connection.node)],
        ['Speaks', `${connection.protocol}, over ${connection.transport}`],
        ['Connected', age(connection.uptime)],
        ['Outbox', connection.outbox_bytes === undefined ? '–' : bytes(connection.outbox_bytes)],
        ['Stalled', connection.stalled_ms ? seconds(connection.stalled_ms / 1_000) : 'no'],
      ]),
      el('h2', {}, 'Subscriptions'),
      table([
        { title: 'Channel', cell: (one) => link(one.channel, 'channel', one.channel) },
        { title: 'Stage', cell: (one) => one.stage },
        { title: 'Position', cell: (one) => (one.offset === undefined ? '–' : `${one.offset} of ${one.epoch}`) },
        { title: 'Delivery', cell: (one) => [one.newest ? 'newest' : 'all', one.positioned && 'positioned', one.filtered && 'filtered'].filter(Boolean).join(', ') },
        { title: '', cell: (one) => !may.read_only && action('Unsubscribe', one.channel, () => ask('unsubscribe', { client: id, user: connection.user, channel: one.channel })) },
      ], connection.subscriptions ?? [], 'None.'),
      !may.read_only && action('Disconnect', id, () => ask('disconnect', { client: id, user: connection.user })),
    ];
  });
  return { content: [el('h1', {}, 'Client ', el('code', {}, id)), part, el('h2', {}, 'Why did this client not receive a publication?'), explainForm(id)], refresh };
}

// Creates a button for an action on a client, which asks for confirmation. `to` distinguishes it from others with the same title.
function action(title, to, act) {
  return el('button', { type: 'button', class: 'harsh', 'data-key': `${title} ${to}`, click: async () => {
    if (!confirm(`${title} this client?`)) return;
    try {
      await act();
      await shown.refresh();
    } catch (error) {
      // A message beside the button would disappear with the next refresh.
      alert(`${title}: ${error.message}`);
    }
  } }, title);
}

function explainForm(id) {
  const answer = el('div', { id: 'explained', role: 'status' });
  const asked = form([
    field('Channel', el('input', { name: 'channel', required: true, autocomplete: 'off' })),
    field('Offset of the publication (empty: any)', el('input', { name: 'offset', inputmode: 'numeric', pattern: '[0-9]*', autocomplete: 'off' })),
  ], 'Explain', async ({ channel: name, offset }) => {
    answer.replaceChildren();
    const { verdict, findings } = await ask('explain', { client: id, channel: name, offset: Number(offset) });
    answer.replaceChildren(
      el('p', { class: 'verdict', 'data-verdict': verdict }, { sent: 'It was sent, if the client was subscribed by then.', waiting: 'It is on its way.', not_sent: 'It was not sent.', unknown: 'It is unknown whether it was sent.' }[verdict]),
      el('ul', {}, findings.map(({ text }) => el('li', {}, text))),
    );
  });
  return el('section', {}, asked, answer);
}

const closeRows = (closed) => table([
  { title: 'When', cell: (one) => ago(one.time) },
  { title: 'Client', cell: (one) => link(one.client, 'client', one.client) },
  { title: 'User', cell: (one) => one.user && link(one.user, 'connections', one.user) },
  { title: 'Code', number: true, cell: (one) => one.code },
  { title: 'Reason', cell: (one) => one.reason },
  { title: 'Spoke', cell: (one) => one.protocol },
  { title: 'Connected for', number: true, cell: (one) => age(one.lived) },
  { title: 'Node', cell: (one) => nodeName(one.node) },
], closed, 'No client was closed recently.', (one) => one.client);

function closes(user = '') {
  const { part, refresh } = live(async () => {
    const answer = await ask('closes', { user, limit: LIST_MAX });
    return [closeRows(answer.closes), missing(answer)];
  });
  const search = form([field('User', el('input', { name: 'user', type: 'search', value: user, autocomplete: 'off' }))], 'Search', (values) => {
    location.hash = address('closes', ...(values.user ? [values.user] : []));
  });
  const note = el('p', { class: 'note' }, 'Each node keeps its last 1,024 closes. 3000: the client left by itself, or its connection was lost.');
  return { content: [el('h1', {}, 'Closes'), search, part, note], refresh };
}

const publish = () => ({ content: [el('h1', {}, 'Publish'), publishForm()], refresh: async () => {} });

const VIEWS = { overview, channels, channel, connections, client, closes, publish };

// An invalid address leads to the overview.
function namesIn(hash) {
  try {
    return hash.slice(1).split('/').map(decodeURIComponent);
  } catch {
    return [''];
  }
}

async function show() {
  const [part, ...names] = namesIn(location.hash);
  const name = Object.hasOwn(VIEWS, part) ? part : 'overview';
  const view = VIEWS[name](...names);
  shown = view;
  main.replaceChildren(...view.content.filter(Boolean));
  const of = { channel: 'channels', client: 'connections' }[name] ?? name;
  for (const anchor of document.querySelectorAll('nav a')) {
    if (anchor.getAttribute('href') === `#${of}`) anchor.setAttribute('aria-current', 'page');
    else anchor.removeAttribute('aria-current');
  }
  document.title = `${main.querySelector('h1').textContent} · Tidegate`;
  await view.refresh().catch((error) => tell('lost', error.message));
}

addEventListener('hashchange', show);
may = await settings().catch(() => may);
document.getElementById('version').textContent = may.version ?? '';
document.getElementById('to-publish').hidden = may.read_only;
// The names of nodes must be known before the first view shows one.
await look().catch(() => {});
await show();
go();
