// WebSockets over Node's HTTP/2 client (RFC 8441), many per connection, with the interface of browsers' WebSocket.

import http2 from 'node:http2';

import { Receiver, Sender, WebSocket } from 'ws';

// Returns a class of sockets that share the connection `session`, for libraries that accept a WebSocket class.
export function socketsOver(session) {
  return class extends Http2Socket {
    constructor(url, protocols) {
      super(session, url, protocols);
    }
  };
}

// Opens an HTTP/2 connection to a server that announces WebSockets, and closes it when the test `t` ends.
export async function connectHttp2(t, origin, authority) {
  const session = http2.connect(origin, { ca: authority });
  t.after(() => session.destroy());
  session.sockets = 0;
  await new Promise((resolve, reject) => {
    session.once('error', reject);
    session.once('remoteSettings', (settings) => {
      if (settings.enableConnectProtocol) resolve();
      else reject(new Error('the server takes no WebSockets over HTTP/2'));
    });
  });
  return session;
}

class Http2Socket {
  #stream;
  #sender;
  #closed = { code: 1006, reason: '' };
  readyState = WebSocket.CONNECTING;
  binaryType = 'arraybuffer';

  constructor(session, url, protocols = []) {
    const { pathname, search } = new URL(url);
    const offered = [protocols].flat();
    session.sockets += 1;
    this.#stream = session.request({
      ':method': 'CONNECT',
      ':protocol': 'websocket',
      ':path': pathname + search,
      'sec-websocket-version': '13',
      ...(offered.length > 0 && { 'sec-websocket-protocol': offered.join(', ') }),
    }, { endStream: false });
    this.#stream.once('response', (headers) => this.#open(headers));
    this.#stream.on('error', (error) => this.onerror?.({ error, message: error.message }));
    this.#stream.once('close', () => {
      this.readyState = WebSocket.CLOSED;
      this.onclose?.(this.#closed);
    });
  }

  #open(headers) {
    if (headers[':status'] !== 200) {
      this.onerror?.({ message: `status ${headers[':status']}` });
      this.#stream.close();
      return;
    }
    this.protocol = headers['sec-websocket-protocol'] ?? '';
    this.#sender = new Sender(this.#stream);
    const receiver = new Receiver({ isServer: false, maxPayload: 1 << 24 });
    receiver.on('message', (data, isBinary) => {
      const bytes = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
      this.onmessage?.({ data: isBinary ? bytes : String(data) });
    });
    receiver.on('ping', (data) => this.#sender.pong(data, true, () => {}));
    receiver.on('conclude', (code, reason) => {
      this.#closed = { code, reason: String(reason) };
      if (this.readyState === WebSocket.OPEN) this.close(code === 1005 ? undefined : code);
    });
    receiver.on('error', (error) => this.#stream.destroy(error));
    this.#stream.pipe(receiver);
    this.readyState = WebSocket.OPEN;
    this.onopen?.({});
  }

  send(data) {
    this.#sender.send(data, { binary: typeof data !== 'string', mask: true, fin: true }, () => {});
  }

  // The stream ends when the server has answered.
  close(code, reason) {
    if (this.readyState === WebSocket.CONNECTING) return this.#stream.close();
    if (this.readyState !== WebSocket.OPEN) return undefined;
    this.readyState = WebSocket.CLOSING;
    return this.#sender.close(code, reason, true, () => this.#stream.end());
  }
}
