#!/usr/bin/env bash
# The Socket.IO client takes the last argument of *any* event, if it is a string, for its position in the stream.
#
# The guess: "connection state recovery" has a separate offset, which the server sends where it wants recovery to begin.
# What happens: once the server has given it a `pid`, the client remembers the last argument of every event if that is a
# string, and sends it as its offset when it reconnects. An ordinary event with a string at its end, or a volatile one
# that the server does not store, overwrites the true offset with "hello world"; an event that ends with a number does
# not.
# So: a server that offers recovery must append an offset to every event without exception, or must not send a `pid`.
#
# Versions: socket.io-client 4.8.4 with a server on `ws` 8.23.0 (npm) that implements the few necessary packets by hand.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-audit --no-fund --prefix "$dir" socket.io-client@4.8.4 ws@8.23.0 >/dev/null
cat >"$dir/returns.cjs" <<'JS'
const { WebSocketServer } = require("ws");
const { io } = require("socket.io-client");
// What the server sends after the offset "offset-1" was given, and with which offset the client returns.
const cases = [
  [[], "offset-1"],
  [['42["tick",7]'], "offset-1"],
  [['42["chat","bob","hello world"]'], "hello world"],
  [['42["chat","hello world"]', '42["tick",7]'], "hello world"],
];
const seen = (events) => new Promise((done) => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  let connections = 0;
  server.on("connection", (socket) => {
    const number = ++connections;
    socket.send("0" + JSON.stringify({ sid: `e${number}`, upgrades: [], pingInterval: 25000, pingTimeout: 20000, maxPayload: 1e6 }));
    socket.on("message", (message) => {
      const text = String(message);
      if (!text.startsWith("40")) return;
      if (number > 1) {
        client.disconnect();
        server.close();
        return done(JSON.parse(text.slice(2)).offset);
      }
      socket.send('40{"sid":"s1","pid":"p1"}');
      for (const event of ['42["news",{"a":1},"offset-1"]', ...events]) socket.send(event);
      setTimeout(() => socket.terminate(), 100);
    });
  });
  let client;
  server.on("listening", () => {
    client = io(`http://127.0.0.1:${server.address().port}`, { transports: ["websocket"], reconnectionDelay: 20, forceNew: true });
  });
});
(async () => {
  let changed = false;
  for (const [events, expected] of cases) {
    const offset = await seen(events);
    console.log(`socket.io-client 4.8.4, after offset-1 and ${JSON.stringify(events)}: returns with ${offset}`);
    changed ||= offset !== expected;
  }
  process.exit(changed ? 1 : 0);
})();
JS
timeout 120 node "$dir/returns.cjs"
echo "as before"
