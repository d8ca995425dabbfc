// The chat in the browser, on one connection. Each room and each direct conversation has a subscription to its messages and
// one to its typing indicators. The gateway itself subscribes each user to their personal channel.

/* global Centrifuge */

const HISTORY = 50;
const TYPING_EVERY_MS = 2_000;
const TYPING_FOR_MS = 4_000;
const NOTIFICATION_MS = 8_000;
const SEND_AGAIN_MS = 1_000;
const SEND_FOR_MS = 30_000;

const at = (id) => document.getElementById(id);
const element = (name, properties, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

let me;
let token;
let client;
let open;
// By key: the name of a room, or "@" and the name of a person.
const conversations = new Map();

// ---- calling the application ----

async function call(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body ?? {}) });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

async function freshToken() {
  try {
    ({ token } = await call('/token'));
  } catch (error) {
    if (error.status !== 401) throw error;
    // The token has expired, for instance while the computer was suspended: the user may enter again.
    token = undefined;
    ({ token } = await call('/session', { name: me }));
  }
  return token;
}

// ---- a conversation ----

class Conversation {
  messages = [];
  seen = new Set();
  people = new Map(); // client id → user
  typists = new Map(); // user → until when
  unread = 0;

  constructor(key) {
    this.key = key;
    const other = /^@(.+)$/.exec(key)?.[1];
    this.isRoom = other === undefined;
    const pair = [me, other].sort().join(',');
    this.said = client.newSubscription(this.isRoom ? `room:${key}` : `direct:#${pair}`);
    this.said.on('publication', ({ data }) => this.take(data));
    this.said.on('subscribed', (context) => this.catchUp(context).catch((error) => console.warn(error.message)));
    if (this.isRoom) {
      this.said.on('join', ({ info }) => this.enter(info));
      this.said.on('leave', ({ info }) => this.leave(info));
    }
    this.typing = client.newSubscription(this.isRoom ? `typing:${key}` : `typing:#${pair}`);
    this.typing.on('publication', ({ info }) => info.user !== me && this.types(info.user));
    this.said.subscribe();
    this.typing.subscribe();
  }

  // Messages missed while the connection was lost have arrived as publications, if the history still had them.
  async catchUp({ wasRecovering, recovered }) {
    if (this.isRoom) {
      const { clients } = await this.said.presence();
      this.people = new Map(Object.values(clients).map(({ client: id, user }) => [id, user]));
    }
    if (!wasRecovering || !recovered) await this.readHistory();
    show();
  }

  async readHistory() {
    const { publications } = await this.said.history({ limit: HISTORY, reverse: true });
    const read = publications.reverse().map(({ data }) => data);
    const known = this.messages;
    const isJoinedOn = read.some(({ id }) => this.seen.has(id));
    const behind = new Set(read.map(({ id }) => id));
    // Known messages that were not read are older, or arrived during the read.
    const older = known.filter((message) => !behind.has(message.id) && message.at <= (read[0]?.at ?? Infinity));
    const newer = known.filter((message) => !behind.has(message.id) && !older.includes(message));
    const hole = older.length > 0 && !isJoinedOn ? [{ hole: true }] : [];
    this.messages = [...older, ...hole, ...read, ...newer];
    this.seen = new Set(this.messages.map(({ id }) => id));
  }

  take(message) {
    if (this.seen.has(message.id)) return;
    this.seen.add(message.id);
    this.messages.push(message);
    this.typists.delete(message.from);
    if (open !== this && message.from !== me) this.unread += 1;
    show();
  }

  enter(info) {
    this.people.set(info.client, info.user);
    show();
  }

  leave(info) {
    this.people.delete(info.client);
    show();
  }

  types(user) {
    this.typists.set(user, Date.now() + TYPING_FOR_MS);
    setTimeout(show, TYPING_FOR_MS + 50);
    show();
  }
}

function conversation(key) {
  if (!conversations.has(key)) conversations.set(key, new Conversation(key));
  return conversations.get(key);
}

function turnTo(key) {
  open = conversation(key);
  open.unread = 0;
  sessionStorage.setItem('open', key);
  show();
  at('messages').scrollTop = at('messages').scrollHeight;
  if (matchMedia('(hover: hover)').matches) at('text').focus();
}

// ---- notifications ----

// A direct message to this user or a mention in a room: now, or while they were away.
function told({ kind, from, text, ...about }, isNew) {
  const key = kind === 'direct' ? `@${about.with}` : about.room;
  const isFirst = !conversations.has(key);
  const concerned = conversation(key);
  if (!isNew || from === me || open === concerned) return;
  // A message sent before the first subscription does not arrive as a publication.
  if (isFirst) concerned.unread += 1;
  notify(kind === 'mention' ? `${from} in # ${key}: ${text}` : `${from}: ${text}`, key);
  show();
}

async function readPersonal() {
  const { publications } = await client.history(`personal:#${me}`, { limit: HISTORY, reverse: true });
  publications.reverse().forEach(({ data }) => told(data, false));
  show();
}

// ---- sending ----

function newId() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  return bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

// Retries until there is an answer. The id makes it one message, however often it arrives.
async function send(to, text) {
  const message = { to, text, id: newId() };
  const until = Date.now() + SEND_FOR_MS;
  for (;;) {
    try {
      return await call('/messages', message);
    } catch (error) {
      if (error.status === 401) await freshToken();
      else if ((error.status && error.status < 500) || Date.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, SEND_AGAIN_MS));
    }
  }
}

let toldTyping = 0;
function tellTyping() {
  if (!open || Date.now() - toldTyping < TYPING_EVERY_MS) return;
  toldTyping = Date.now();
  // It does not matter if this is lost.
  open.typing.publish({}).catch(() => {});
}

// ---- rendering ----

function notify(text, key) {
  const button = element('button', { type: 'button', textContent: text });
  const item = element('li', {}, button);
  button.addEventListener('click', () => {
    item.remove();
    turnTo(key);
  });
  at('notifications').append(item);
  setTimeout(() => item.remove(), NOTIFICATION_MS);
}

function entry(key, name, isHere) {
  const { unread = 0 } = conversations.get(key) ?? {};
  const button = element('button', { type: 'button' }, name);
  button.dataset.key = key;
  if (isHere) button.dataset.here = '';
  if (unread) {
    button.append(element('span', { className: 'unread', textContent: unread, ariaLabel: `${unread} unread` }));
  }
  if (open?.key === key) button.setAttribute('aria-current', 'true');
  button.addEventListener('click', () => turnTo(key));
  return element('li', {}, button);
}

function line(message) {
  if (message.hole) return element('li', { className: 'hole', textContent: 'older messages are not here any more' });
  const time = new Date(message.at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const said = message.text.split(/(@[a-z0-9_-]{1,24})/).map((part) =>
    part.startsWith('@') ? element('mark', { textContent: part, className: part === `@${me}` ? 'me' : '' }) : part,
  );
  const head = [element('b', { textContent: message.from }), element('time', { textContent: time })];
  const item = element('li', {}, ...head, element('p', {}, ...said));
  item.dataset.id = message.id;
  if (message.from === me) item.className = 'mine';
  return item;
}

let planned = false;
function show() {
  if (planned) return;
  planned = true;
  // Not at the next animation frame: a page in the background has none.
  setTimeout(() => {
    planned = false;
    draw();
  });
}

function draw() {
  if (!open) return;
  const rooms = [...conversations.values()].filter(({ isRoom }) => isRoom);
  const here = new Set(rooms.flatMap(({ people }) => [...people.values()]));
  const talkedTo = [...conversations.values()].filter(({ isRoom }) => !isRoom).map(({ key }) => key.slice(1));
  const others = new Set([...here, ...talkedTo]);
  others.delete(me);
  at('rooms').replaceChildren(...rooms.map(({ key }) => entry(key, `# ${key}`)));
  at('people').replaceChildren(...[...others].sort().map((name) => entry(`@${name}`, name, here.has(name))));

  at('title').textContent = open.isRoom ? `# ${open.key}` : open.key.slice(1);
  const count = new Set(open.people.values()).size;
  at('here').textContent = open.isRoom ? `${count} here` : here.has(open.key.slice(1)) ? 'here' : 'away';
  const list = at('messages');
  const wasAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  // Keep the items that are shown already, so that screen readers read only new ones.
  const shown = new Map([...list.children].map((item) => [item.dataset.id, item]));
  if (list.dataset.key !== open.key) shown.clear();
  const items = open.messages.map((message) => shown.get(message.id) ?? line(message));
  list.dataset.key = open.key;
  if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
    list.replaceChildren(...items);
    if (wasAtEnd) list.scrollTop = list.scrollHeight;
  }
  const typists = [...open.typists].filter(([, until]) => until > Date.now()).map(([user]) => user);
  at('typing').textContent = typists.length ? `${typists.join(', ')} ${typists.length > 1 ? 'are' : 'is'} typing…` : '';
}

// ---- entering and leaving ----

async function enter(name) {
  const session = await call('/session', { name });
  sessionStorage.setItem('name', name);
  begin(session);
}

function begin(session) {
  ({ user: me, token } = session);
  // Each attempt to connect goes to the next node, so that a failed node is skipped.
  let attempts = 0;
  const { gateways } = session;
  class NextNode extends WebSocket {
    constructor(_, protocols) {
      super(gateways[attempts++ % gateways.length], protocols);
    }
  }
  client = new Centrifuge(gateways[0], { token, getToken: freshToken, websocket: NextNode, maxReconnectDelay: 5_000 });
  for (const state of ['connecting', 'connected', 'disconnected']) {
    client.on(state, () => {
      document.body.dataset.state = state;
      at('state').textContent = state;
    });
  }
  // Publications of server-side subscriptions: the personal channel.
  client.on('publication', ({ data }) => told(data, true));
  client.once('connected', () => readPersonal().catch((error) => console.warn(error.message)));
  at('me').textContent = me;
  at('door').hidden = true;
  at('house').hidden = false;
  session.rooms.forEach(conversation);
  turnTo(sessionStorage.getItem('open') ?? session.rooms[0]);
  client.connect();
}

at('door').addEventListener('submit', (event) => {
  event.preventDefault();
  enter(at('name').value).catch((error) => (at('refused').textContent = error.message));
});

at('leave').addEventListener('click', () => {
  sessionStorage.clear();
  location.reload();
});

at('text').addEventListener('input', tellTyping);
at('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = at('text').value.trim();
  if (!text) return;
  at('text').value = '';
  toldTyping = 0;
  const to = open.key;
  try {
    await send(to, text);
  } catch (error) {
    at('text').value ||= text;
    notify(`not sent: ${error.message}`, to);
  }
});

// A user who reloads the page stays signed in.
const name = sessionStorage.getItem('name');
if (name) enter(name).catch((error) => (at('refused').textContent = error.message));
