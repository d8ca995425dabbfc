// A small client of the Centrifuge protocol (version 2, JSON): what it takes to watch channels and to come back
// after a lost connection without missing or repeating anything. The official libraries do this and much more.

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20_000;
// The server announces its ping interval. A silence longer than the interval plus this delay means that the connection is dead.
const PING_DELAY_MAX_MS = 10_000;
const ANSWER_TIMEOUT_MS = 5_000;

// Close codes after which the client must not reconnect (protocol errors, refusals).
const isFinal = (code) => code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

// Full jitter: clients that were cut off together do not all come back together.
export function backoff(attempt, random = Math.random) {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(attempt, 16));
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS + random() * ceiling);
}

// `onChange(client)` is called after every change of the state, `onPublication(channel, publication, recovered)` for every
// publication, and `onSubscribed(channel)` for every subscription without recovery: the first one, and one whose missed
// publications could not be recovered. `onRefused(channel, message)` is called for a subscription that the server refuses.
export class TickerClient {
  state = 'idle'; // idle, connecting, connected, waiting, closed
  client = '';
  node = '';
  reason = '';
  retryAt = 0;
  counts = { messages: 0, recovered: 0, unrecovered: 0, holes: 0, duplicates: 0, connects: 0, superseded: 0 };

  #url;
  #socket = null;
  #channels = new Map(); // name → { position: { offset, epoch } or null, attempt, ended }
  #waiting = new Map(); // command id → { done, timer }
  #id = 0;
  #attempt = 0;
  #retry = 0;
  #watch = 0;
  #silenceMax = ANSWER_TIMEOUT_MS;
  #wanted = null; // The chosen delivery; null: all publications, with recovery.

  constructor(url, { onChange, onPublication, onSubscribed, onRefused }) {
    this.#url = url;
    this.onChange = onChange;
    this.onPublication = onPublication;
    this.onSubscribed = onSubscribed;
    this.onRefused = onRefused;
  }

  subscribe(channel) {
    this.#channels.set(channel, { position: null, attempt: 0, ended: false });
    if (this.state === 'connected') this.#send(this.#subscribeCommand(channel));
  }

  connect() {
    if (this.state === 'connecting' || this.state === 'connected') return;
    clearTimeout(this.#retry);
    this.#enter('connecting');
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    // Ignores events of a socket that was already given up.
    const current = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = current(() => this.#open());
    socket.onmessage = current(({ data }) => this.#receive(data));
    socket.onclose = current(({ code, reason }) => this.#lose(code, reason));
    this.#silenceMax = ANSWER_TIMEOUT_MS;
    this.#listen();
  }

  // Chooses the delivery: all publications (null), or `{ delivery, times_per_s }`. Between two deliveries of newest values the
  // subscription stays. Delivery of all needs positions, so changing from or to it takes a new subscription.
  async choose(wanted) {
    const change = this.#wanted && wanted;
    this.#wanted = wanted;
    for (const [channel, subscription] of this.#channels) {
      if (this.state !== 'connected' || subscription.ended) continue;
      if (change) {
        await this.#ask({ rpc: { method: 'tidegate.delivery', data: { channel, ...wanted } } });
      } else {
        subscription.position = null;
        this.#send(this.#command({ unsubscribe: { channel } }), this.#subscribeCommand(channel));
      }
    }
  }

  // Drops the connection as if the network had failed, to show that the client recovers.
  drop() {
    if (this.#socket) this.#lose(0, 'cut here');
  }

  // Returns the newest publications of a channel, oldest first.
  async history(channel, limit) {
    const { publications = [] } = await this.#ask({ history: { channel, limit, reverse: true } });
    return publications.reverse();
  }

  // Sends connect and all subscribes in one message, which the server processes in order.
  #open() {
    const commands = [this.#command({ connect: { name: 'ticker' } }, (reply) => this.#connected(reply))];
    for (const [channel, { ended }] of this.#channels) if (!ended) commands.push(this.#subscribeCommand(channel));
    this.#send(...commands);
  }

  #connected({ connect, error, lost }) {
    if (lost) return;
    if (error) return this.#lose(error.temporary || error.code < 100 ? 0 : 3500, error.message);
    this.client = connect.client;
    this.node = connect.node ?? '';
    this.#silenceMax = connect.ping ? connect.ping * 1000 + PING_DELAY_MAX_MS : 0;
    this.#attempt = 0;
    this.counts.connects += 1;
    this.#enter('connected');
  }

  #subscribeCommand(channel) {
    const { position } = this.#channels.get(channel);
    const subscribe = position ? { channel, recover: true, ...position } : { channel };
    if (this.#wanted) subscribe.data = { tidegate: this.#wanted };
    return this.#command({ subscribe }, (reply) => this.#subscribed(channel, reply));
  }

  #subscribed(channel, { subscribe, error, lost }) {
    if (lost) return;
    const subscription = this.#channels.get(channel);
    if (error) {
      if (error.temporary) return this.#resubscribe(channel);
      return this.#end(channel, error.message);
    }
    subscription.attempt = 0;
    if (subscribe.recovered) {
      for (const publication of subscribe.publications ?? []) this.#publication(channel, publication, true);
    } else {
      if (subscribe.was_recovering) this.counts.unrecovered += 1;
      subscription.position = subscribe.epoch ? { offset: subscribe.offset ?? 0, epoch: subscribe.epoch } : null;
      this.onSubscribed(channel);
    }
    this.onChange(this);
  }

  #end(channel, message) {
    this.#channels.get(channel).ended = true;
    this.onRefused(channel, message);
  }

  #resubscribe(channel) {
    const subscription = this.#channels.get(channel);
    const socket = this.#socket;
    const again = () => this.#socket === socket && this.#send(this.#subscribeCommand(channel));
    setTimeout(again, backoff(subscription.attempt++));
  }

  #receive(data) {
    this.#listen();
    try {
      for (const line of data.split('\n')) if (line) this.#handle(JSON.parse(line));
    } catch (error) {
      console.error(error);
      this.#lose(0, 'unreadable message');
    }
  }

  #handle(reply) {
    if (reply.id) {
      const { done, timer } = this.#waiting.get(reply.id) ?? {};
      this.#waiting.delete(reply.id);
      clearTimeout(timer);
      done?.(reply);
    } else if (!reply.push) {
      this.#socket?.send('{}'); // An empty reply is a ping, an empty command the pong.
    } else if (reply.push.pub) {
      this.#publication(reply.push.channel, reply.push.pub, false);
    } else if (reply.push.unsubscribe) {
      // Codes from 2500 on ask the client to subscribe again: the server has found a gap, which the new subscription recovers.
      if (reply.push.unsubscribe.code >= 2500) this.#resubscribe(reply.push.channel);
      else this.#end(reply.push.channel, reply.push.unsubscribe.reason);
    } else if (reply.push.disconnect) {
      this.#lose(reply.push.disconnect.code, reply.push.disconnect.reason);
    }
  }

  #publication(channel, publication, recovered) {
    const subscription = this.#channels.get(channel);
    if (!subscription) return;
    const { position } = subscription;
    if (position && publication.offset) {
      if (publication.offset <= position.offset) return void (this.counts.duplicates += 1);
      this.counts.holes += publication.offset - position.offset - 1;
      subscription.position = { offset: publication.offset, epoch: publication.epoch ?? position.epoch };
    }
    this.counts[recovered ? 'recovered' : 'messages'] += 1;
    this.counts.superseded += Number(publication.tags?.['tidegate.superseded'] ?? 0);
    this.onPublication(channel, publication, recovered);
  }

  #lose(code, reason) {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    clearTimeout(this.#watch);
    for (const { done, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      done({ error: { message: 'connection lost' }, lost: true });
    }
    this.#waiting.clear();
    this.reason = reason || (code ? `closed with ${code}` : '');
    if (isFinal(code)) return this.#enter('closed');
    const delay = backoff(this.#attempt++);
    this.retryAt = Date.now() + delay;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#enter('waiting');
  }

  // Restarts the timer that closes a silent connection.
  #listen() {
    clearTimeout(this.#watch);
    if (this.#silenceMax) this.#watch = setTimeout(() => this.#lose(0, 'no ping'), this.#silenceMax);
  }

  #command(body, done) {
    const id = ++this.#id;
    const timer = setTimeout(() => this.#lose(0, 'no answer'), ANSWER_TIMEOUT_MS);
    this.#waiting.set(id, { done, timer });
    return { id, ...body };
  }

  #ask(body) {
    return new Promise((resolve, reject) => {
      const done = (reply) => (reply.error ? reject(new Error(reply.error.message)) : resolve(reply[Object.keys(body)[0]]));
      this.#send(this.#command(body, done));
    });
  }

  #send(...commands) {
    this.#socket?.send(commands.map((command) => JSON.stringify(command)).join('\n'));
  }

  #enter(state) {
    this.state = state;
    this.onChange(this);
  }
}
