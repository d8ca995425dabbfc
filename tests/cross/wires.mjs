// A row for each wire: how its clients follow a channel, and how they publish there.
//
// To add one: a row below, with
//   protocol   the label of its clients in `tidegate_connections`
//   serves     (namespace) → whether the wire is in this namespace; by default in all. A room is a namespace and a name: `all:one`
//   goesOn     whether a client that reconnects recovers what it missed
//   follow     (cluster, room, told) → { close() }. Reports events to `told`: began(recovered), heard(publication), left()
//   channel    (room) → the channel that the client really follows, if it is not the room
//   publish    (cluster, room, client) → a publisher: (publication) → a promise, fulfilled when the gateway has accepted the
//              publication, or when it was sent, if the wire has no acknowledgement

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
// The name of Pusher's events, which must have one; other wires use none.
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

// Follows a stream with EventSource itself.
function eventSource(address, options) {
  return (cluster, room, told) => {
    const source = new EventSource(cluster.http(address(room)));
    source.onopen = () => options.opened?.(told);
    source.addEventListener('subscribed', ({ data }) => {
      const { recovered } = JSON.parse(data).channels[room];
      told.began(recovered !== false);
    });
    source.onmessage = ({ data }) => told.heard(JSON.parse(data));
    // Updates with a type do not reach onmessage.
    source.addEventListener(NAME, ({ data }) => told.heard(JSON.parse(data)));
    source.onerror = () => (source.readyState === EventSource.CLOSED ? told.lostForGood() : told.left());
    return { close: () => source.close() };
  };
}

// Posts a publication, and throws unless the response is a success.
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
    // A bare client has to reconnect by itself: here after 0.1 to 0.5 seconds.
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
    // This wire has no acknowledgements.
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
    // A response header tells whether the recovery succeeded, but EventSource does not expose headers.
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
    // Simultaneous publications of two nodes may have another order in this channel than in the topic's channel.
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
    // Clients may publish only in private channels, so an application server publishes here.
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
    // Clients publish with mutations at the application's server. A namespace's field has the namespace's name.
    follow(cluster, room, told) {
      const [field, name] = partsOf(room);
      // When it reconnects, the library sends this object again, with its values at that time.
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
      // Rejects if the client is reconnecting to a node that is gone.
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
