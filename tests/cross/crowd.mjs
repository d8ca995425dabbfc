// Clients of every wire in the same rooms, some of which publish.

import { until } from '../support/wait.mjs';
import { keyOf } from './cluster.mjs';
import { Told } from './told.mjs';
import { WIRES } from './wires.mjs';

const serves = (name, room) => WIRES[name].serves?.(room.split(':')[0]) ?? true;

// Clients that connect at the same time.
const AT_ONCE = 40;
const OPEN_DEADLINE_MS = 60_000;

export class Crowd {
  clients = [];
  // By room: the publications that were attempted, and those that the gateway accepted.
  tried = new Map();
  taken = new Map();
  #stopped = false;
  #publishing = [];

  // Connects `count` clients of each wire, distributed evenly over the rooms.
  static async gather(t, cluster, rooms, count) {
    const crowd = new Crowd();
    Object.assign(crowd, { cluster, rooms });
    t.after(() => crowd.close());
    for (const room of rooms) {
      crowd.tried.set(room, []);
      crowd.taken.set(room, []);
    }
    for (let from = 0; from < count; from += AT_ONCE) {
      const opened = [];
      for (let index = from; index < Math.min(count, from + AT_ONCE); index += 1) {
        for (const name of Object.keys(WIRES)) {
          const own = rooms.filter((room) => serves(name, room));
          opened.push(crowd.#open(name, own[index % own.length]));
        }
      }
      await until('they have begun', () => opened.every(({ told }) => told.isHere), OPEN_DEADLINE_MS);
    }
    await until('all of them are subscribed', async () => (await crowd.#subscribed()) === crowd.clients.length);
    return crowd;
  }

  #open(name, room) {
    const told = new Told();
    // Records the events that matter to this test.
    const ears = {
      began: (recovered) => told.began(recovered),
      heard: (publication) => told.heard(keyOf(publication)),
      left: () => told.left(),
      lostForGood: () => !this.#stopped && told.lostForGood(),
    };
    const client = { name, wire: WIRES[name], room, told };
    client.own = client.wire.follow(this.cluster, room, ears);
    this.clients.push(client);
    return client;
  }

  async #subscribed() {
    const { channels } = await this.cluster.nodes[0].api('channels', {});
    const own = new Set(this.clients.map((client) => this.channelOf(client)));
    return Object.entries(channels).reduce((sum, [channel, { num_clients: clients }]) => sum + (own.has(channel) ? clients : 0), 0);
  }

  // Starts one publisher of each wire in each room, which publishes about `perSecond` times a second until stopped.
  publish(perSecond) {
    for (const [room, name] of this.rooms.flatMap((room) => Object.keys(WIRES).map((name) => [room, name]))) {
      const client = this.clients.find((client) => client.name === name && client.room === room);
      const publish = client?.wire.publish?.(this.cluster, room, client.own);
      if (publish) this.#publishing.push(this.#keepPublishing(`${name} in ${room}`, room, publish, 1_000 / perSecond));
    }
  }

  async #keepPublishing(by, room, publish, intervalMs) {
    for (let number = 1; !this.#stopped; number += 1) {
      const key = keyOf({ by, number });
      this.tried.get(room).push(key);
      // The outcome of a failed attempt is unknown.
      const answer = await publish({ by, number }).then((answer) => answer ?? {}, () => ({ unknown: true }));
      if (!answer.unknown) this.taken.get(room).push(key);
      await new Promise((resolve) => setTimeout(resolve, intervalMs * (0.5 + Math.random())));
    }
  }

  // Waits until `more` further publications have been accepted in each room.
  async published(more) {
    const before = new Map(this.rooms.map((room) => [room, this.taken.get(room).length]));
    const has = (room) => this.taken.get(room).length >= before.get(room) + more;
    await until(`${more} more are published in each room`, () => this.rooms.every(has), 60_000);
  }

  // Stops the publishers, waits until all clients are connected, publishes a last message in each room and waits until all have
  // received it. Returns what a client should have received: `({ wire, room }) → keys`.
  async stopPublishing() {
    this.#stopped = true;
    await Promise.all(this.#publishing);
    await this.allAreHere();
    const channels = new Map();
    for (const room of this.rooms) {
      const last = { by: `the test in ${room}`, number: 1 };
      this.tried.get(room).push(keyOf(last));
      await this.cluster.nodes[0].publish(room, last);
      this.taken.get(room).push(keyOf(last));
    }
    for (const channel of new Set(this.clients.map((client) => this.channelOf(client)))) {
      channels.set(channel, await this.cluster.history(channel));
    }
    const all = ({ wire, room }) => channels.get(this.channelOf({ wire, room })).filter((key) => key.includes(` in ${room} `));
    const has = (client) => client.told.isLost || client.told.last === all(client).at(-1);
    // A client that has not is reported later, with what it lacks.
    await until('all have the last', () => this.clients.every(has), 15_000).catch(() => {});
    return all;
  }

  channelOf({ wire, room }) {
    return wire.channel?.(room) ?? room;
  }

  async allAreHere() {
    const away = () => this.clients.filter(({ told }) => !told.isHere);
    await until('all are back', () => away().length === 0, 60_000).catch(() => {
      throw new Error(`not back: ${away().map(({ name }) => name)}`);
    });
  }

  // Returns the times since a moment at which clients were cut off and came back, and the clients that were cut off repeatedly.
  since(moment) {
    const later = (of) => this.clients.flatMap(({ told }) => told[of].filter((at) => at >= moment));
    const again = this.clients.filter(({ told }) => told.cutOff.filter((at) => at >= moment).length > 1);
    const twice = again.map(({ name, told }) => ({ name, cutOff: told.cutOff, back: told.back }));
    return { cutOff: later('cutOff'), back: later('back'), twice };
  }

  close() {
    this.#stopped = true;
    for (const { own } of this.clients) own.close();
  }
}
