#!/usr/bin/env bash
# centrifuge-js decides by the *reason* of a close frame whether it reconnects, and only then by the code.
#
# The guess: the protocol's code ranges apply. 3500 to 3999 and 4500 to 4999 are final; after all other codes the client
# reconnects.
# What happens: with an empty reason the client reconnects after every code, including 3500 and 4500, endlessly. A
# reason that happens to be valid JSON is taken as advice: unless it has a field `reconnect` that is true, the client
# stops for good, whatever the code. So a server that closes with (3008, "7") or (1001, "[1]") stops its clients for
# good, while (4500, "") starts an endless loop.
# So: a server must not send an empty reason with a final code, and never a reason that is a number, a quoted string, a
# list or an object.
#
# Versions: centrifuge 5.7.4 of npm, over ws 8.23.0. The reconnect delays are set to 20 to 40 ms, so that 400 ms
# distinguish the two outcomes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-audit --no-fund --prefix "$dir" centrifuge@5.7.4 ws@8.23.0 >/dev/null
cat >"$dir/closes.cjs" <<'JS'
const WebSocket = require("ws");
const { Centrifuge } = require("centrifuge");
const cases = [
  [3500, "invalid token", "stays away"],
  [3500, "", "comes back"],
  [4500, "banned", "stays away"],
  [4500, "", "comes back"],
  [3008, "slow", "comes back"],
  [3008, "7", "stays away"],
  [3008, '{"retry_after":5}', "stays away"],
  [1001, "going away", "comes back"],
  [1001, "[1]", "stays away"],
  [3500, '{"reason":"x","reconnect":true}', "comes back"],
];
const seen = (code, reason) => new Promise((done) => {
  const server = new WebSocket.WebSocketServer({ port: 0, host: "127.0.0.1" });
  let connections = 0;
  server.on("connection", (socket) => {
    connections += 1;
    socket.on("message", (message) => {
      const { id } = JSON.parse(String(message));
      socket.send(JSON.stringify({ id, connect: { client: "c", version: "0", ping: 25, pong: true } }));
      setTimeout(() => socket.close(code, reason), 5);
    });
  });
  server.on("listening", () => {
    const url = `ws://127.0.0.1:${server.address().port}`;
    const client = new Centrifuge(url, { websocket: WebSocket, minReconnectDelay: 20, maxReconnectDelay: 40 });
    const finish = (outcome) => { client.removeAllListeners(); client.disconnect(); server.close(); done(outcome); };
    const deadline = setTimeout(() => finish(connections > 2 ? "comes back" : "neither"), 400);
    client.on("disconnected", () => { clearTimeout(deadline); finish("stays away"); });
    client.connect();
  });
});
(async () => {
  let changed = false;
  for (const [code, reason, expected] of cases) {
    const outcome = await seen(code, reason);
    console.log(`centrifuge 5.7.4, closed with ${code} ${JSON.stringify(reason)}: ${outcome}`);
    changed ||= outcome !== expected;
  }
  process.exit(changed ? 1 : 0);
})();
JS
timeout 120 node "$dir/closes.cjs"
echo "as before"
