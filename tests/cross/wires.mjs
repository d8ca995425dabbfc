// A row for each wire: how a client of it follows a channel, and how it publishes there.
//
// To add one: a row below, with
//   protocol   as `tidegate_connections` counts its clients
//   serves     (namespace) → whether it is in it, if it is not in all: a room is a namespace and a name, `all:one`
//   goesOn     whether a client that comes back is given what it missed
//   follow     (cluster, room, told) → { close() }. Tells `told` of what happens: began(recovered), heard(publication), left()
//   channel    (room) → the channel that it follows in truth, where that is another than the room's own
//   publish    (cluster, room, client) → what publishes: (publication) → a promise that the gateway has taken it, or that it was
//              sent, where the wire has no word for that

import { Centrifuge } from 'centrifuge';
import { Centrifuge as CentrifugeProtobuf } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import { createClient } from 'graphql-ws';
import PusherServer from 'pusher';
import Pusher from 'pusher-js';
import { io } from 'socket.io-client';
import WebSocket from 'ws';

import { inSeconds, token } from '../support/token.mjs';

const MERCURE = '/.well-known/mercure';
// What Pusher calls each of its events, for they have to have a name; others give theirs none.
const NAME = 'said';
const partsOf = (room) => room.split(':');
const nameOf = (room) => partsOf(room)[1];
const bytes = (publication) => new TextEncoder().encode(JSON.stringify(publication));

function centrifuge(Library, endpoint, options, read, write) {
  return {
    goesOn: true,
    follow(cluster, room, told) {
      const client = new Library(endpoint(cluster), { minReconnectDelay: 100, maxReconnectDelay: 1_000, ...options(cluster) });
      // The library reports every failed attempt here; without a listener it prints them.
      client.on('error', () => {});
      const subscription = client.newSubscription(room);
      subscription.on('subscribed', ({ wasRecovering, recovered }) => told.began(!wasRecovering || recovered));
      subscription.on('publication', ({ data }) => told.heard(read(data)));
      subscription.on('subscribing', () => told.left());
      client.on('disconnected', () => told.lostForGood());
      subscription.on('unsubscribed', () => told.lostForGood());
      subscription.subscribe();
      client.connect();
      return { close: () => client.disconnect(), subscription };
    },
    publish: (_cluster, _room, { subscription }) => (publication) => subscription.publish(write(publication)),
  };
}

// What reads it is EventSource itself.
function eventSource(address, options) {
  return (cluster, room, told) => {
    const source = new EventSource(cluster.http(address(room)));
    source.onopen = () => options.opened?.(told);
    source.addEventListener('subscribed', ({ data }) => {
      const { recovered } = JSON.parse(data).channels[room];
      told.began(recovered !== false);
    });
    source.onmessage = ({ data }) => told.heard(JSON.parse(data));
    // An update's type is its name, and onmessage hears none that has one.
    source.addEventListener(NAME, ({ data }) => told.heard(JSON.parse(data)));
    source.onerror = () => (source.readyState === EventSource.CLOSED ? told.lostForGood() : told.left());
    return { close: () => source.close() };
  };
}

// With an answer that is a success, or not taken.
async function post(cluster, path, body, headers) {
  const response = await fetch(cluster.http(path), { method: 'POST', body, headers });
  const said = await response.text();
  if (response.status !== 200) throw new Error(`${path}: ${response.status} ${said}`);
}

const websocket = (path) => (cluster) => cluster.ws(path);
const over = (transport) => (cluster) => [{ transport, endpoint: cluster.http(`/connection/${transport}`) }];
const apart = (cluster) => ({ emulationEndpoint: cluster.http('/emulation'), eventsource: EventSource });
const json = [(data) => data, (publication) => publication];
const protobuf = [(data) => JSON.parse(new TextDecoder().decode(data)), bytes];
const ownSockets = () => ({ websocket: WebSocket });

export const WIRES = {
  'Centrifuge, JSON': {
    protocol: 'centrifuge_json',
    ...centrifuge(Centrifuge, websocket('/connection/websocket'), ownSockets, ...json),
  },
  'Centrifuge, Protobuf': {
    protocol: 'centrifuge_protobuf',
    ...centrifuge(CentrifugeProtobuf, websocket('/connection/websocket?format=protobuf'), ownSockets, ...protobuf),
  },
  'Centrifuge, HTTP stream': {
    protocol: 'centrifuge_json',
    ...centrifuge(Centrifuge, over('http_stream'), apart, ...json),
  },
  'Centrifuge, event stream': {
    protocol: 'centrifuge_json',
    ...centrifuge(Centrifuge, over('sse'), apart, ...json),
  },
  'bare WebSocket': {
    protocol: 'raw',
    goesOn: false,
    // Such a client comes back as its author has it: here after a tenth of a second to half a second.
    follow(cluster, room, told) {
      const client = { closed: false };
      const open = () => {
        client.socket = new WebSocket(cluster.ws(`/raw/${room}`));
        client.socket.on('open', () => told.began(false));
        client.socket.on('message', (data) => told.heard(JSON.parse(String(data))));
        client.socket.on('error', () => {});
        client.socket.on('close', () => {
          told.left();
          if (!client.closed) client.timer = setTimeout(open, 100 + 400 * Math.random());
        });
      };
      client.close = () => {
        client.closed = true;
        clearTimeout(client.timer);
        client.socket.terminate();
      };
      open();
      return client;
    },
    // Nothing is said of what was sent.
    publish: (_cluster, _room, client) => (publication) =>
      new Promise((resolve, reject) => {
        client.socket.send(JSON.stringify(publication), (error) => (error ? reject(error) : resolve({ unknown: true })));
      }),
  },
  'event stream': {
    protocol: 'sse',
    goesOn: true,
    follow: eventSource((room) => `/sse?channel=${room}`, {}),
    publish: (cluster, room) => (publication) =>
      post(cluster, '/connection/publish', JSON.stringify({ channel: room, data: publication }), {}),
  },
  Mercure: {
    protocol: 'mercure',
    serves: (namespace) => namespace === 'all',
    goesOn: true,
    // The answer's header says whether what was missed is coming, and EventSource shows no headers.
    follow: eventSource((room) => `${MERCURE}?topic=${nameOf(room)}`, { opened: (told) => told.began(true) }),
    publish: (cluster, room) => (publication) => {
      const signed = token({ exp: inSeconds(600), mercure: { publish: ['*'] } });
      const form = new URLSearchParams({ topic: nameOf(room), data: JSON.stringify(publication), retry: '400' });
      return post(cluster, MERCURE, form, { Authorization: `Bearer ${signed}` });
    },
  },
  'Mercure, by a template': {
    protocol: 'mercure',
    serves: (namespace) => namespace === 'all',
    goesOn: true,
    // What two nodes publish at the same time may stand in another order here than in the channel of the topic.
    channel: () => 'all:*',
    follow: eventSource((room) => `${MERCURE}?topic=${encodeURIComponent(`${nameOf(room).slice(0, -1)}{rest}`)}`, { opened: (told) => told.began(true) }),
  },
  Pusher: {
    protocol: 'pusher',
    goesOn: false,
    follow(cluster, room, told) {
      const [app, name] = partsOf(room);
      const client = new Pusher(`key-of-${app}`, {
        wsHost: '127.0.0.1', wsPort: cluster.port, forceTLS: false, enabledTransports: ['ws'], enableStats: false, cluster: '',
      });
      client.connection.bind('state_change', ({ previous, current }) => {
        if (previous === 'connected') told.left();
        if (current === 'failed' || current === 'disconnected') told.lostForGood();
      });
      const channel = client.subscribe(name);
      channel.bind('pusher:subscription_succeeded', () => told.began(false));
      channel.bind_global((event, data) => event.startsWith('pusher:') || told.heard(data));
      return { close: () => client.disconnect() };
    },
    // Clients publish in private channels alone; to this one their servers do.
    publish(cluster, room) {
      const [app, name] = partsOf(room);
      const server = new PusherServer({
        appId: app, key: `key-of-${app}`, secret: `secret-of-${app}`, host: '127.0.0.1', port: String(cluster.port), useTLS: false,
      });
      return async (publication) => {
        const { status } = await server.trigger(name, NAME, publication);
        if (status !== 200) throw new Error(`trigger: ${status}`);
      };
    },
  },
  GraphQL: {
    protocol: 'graphql',
    goesOn: true,
    // Clients publish with mutations at a server of their own. A namespace's field has its name.
    follow(cluster, room, told) {
      const [field, name] = partsOf(room);
      // The library sends this again, as it is then, when it connects anew.
      const extensions = { tidegate: { positions: true } };
      const client = createClient({
        url: cluster.ws('/graphql'), webSocketImpl: WebSocket, retryAttempts: Infinity, shouldRetry: () => true,
        retryWait: () => new Promise((resolve) => setTimeout(resolve, 100 + 400 * Math.random())),
        on: { connected: () => told.began('recover' in extensions.tidegate), closed: () => told.left() },
      });
      client.subscribe({ query: `subscription { ${field}(room: "${name}") }`, extensions }, {
        next: ({ data, extensions: { tidegate } }) => {
          extensions.tidegate = { recover: tidegate.position };
          told.heard(data[field]);
        },
        error: () => told.lostForGood(),
        complete: () => told.lostForGood(),
      });
      // One that is connecting anew to what is gone already says so.
      return { close: () => Promise.resolve(client.dispose()).catch(() => {}) };
    },
  },
  'Socket.IO': {
    protocol: 'socketio',
    serves: (namespace) => namespace === 'io',
    goesOn: false,
    follow(cluster, room, told) {
      const socket = io(cluster.http(''), {
        transports: ['websocket'], forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 500,
      });
      socket.on('connect', () => socket.emit('join', nameOf(room), () => told.began(false)));
      for (const event of ['message', NAME]) socket.on(event, (publication) => told.heard(publication));
      socket.on('disconnect', () => (socket.active ? told.left() : told.lostForGood()));
      return { close: () => socket.close(), socket };
    },
    publish: (_cluster, room, { socket }) => async (publication) => {
      const { status } = await socket.timeout(5_000).emitWithAck(NAME, nameOf(room), publication);
      if (status !== 'ok') throw new Error(`${NAME}: ${status}`);
    },
  },
};
