#!/usr/bin/env bash
# A Socket.IO server with the Redis adapter waits for a reply from every subscriber of its request channel.
#
# The guess: a program that only listens to what servers and emitters publish does not affect them.
# What happens: the adapter counts the subscribers of PREFIX-request#NAMESPACE# (PUBSUB NUMSUB) and takes each for a
# server that will reply. With one more subscriber, `fetchSockets()` fails after its timeout, on every server of the
# cluster. Subscribers to a pattern are not counted, even if the pattern has no wildcard: a PSUBSCRIBE of the very same
# name receives the messages, and no server waits for it.
# So: subscribe to request channels by pattern, never by name.
#
# Versions: socket.io 4.8.3, @socket.io/redis-adapter 8.3.0, ioredis 5.8.2 of npm, with redis-server as installed.
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
npm install --silent --no-audit --no-fund --prefix "$dir" socket.io@4.8.3 @socket.io/redis-adapter@8.3.0 ioredis@5.8.2 >/dev/null
port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })')
redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --dir "$dir" >/dev/null &
server=$!
cat >"$dir/waits.cjs" <<'JS'
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const Redis = require("ioredis");
const url = `redis://127.0.0.1:${process.argv[2]}`;
const NAME = "socket.io-request#/#";
(async () => {
  const clients = [0, 1, 2].map(() => new Redis(url));
  const [pub, sub, listener] = clients;
  const io = new Server({ adapter: createAdapter(pub, sub, { requestsTimeout: 1000 }) });
  const count = async () => (await pub.call("PUBSUB", "NUMSUB", NAME))[1];
  while ((await count()) !== 1) await new Promise((resolve) => setTimeout(resolve, 20));
  let heard = 0;
  listener.on("pmessage", () => { heard += 1; });
  const fetched = () => io.fetchSockets().then((sockets) => `lists ${sockets.length}`, (error) => error.message);
  let changed = false;
  const show = (what, outcome, expected) => {
    console.log(`${what}: ${outcome}`);
    changed ||= !outcome.includes(expected);
  };
  show("nobody else listens", await fetched(), "lists 0");
  await listener.subscribe(NAME);
  show("somebody has subscribed by name", await fetched(), "timeout");
  await listener.unsubscribe(NAME);
  await listener.psubscribe(NAME);
  show("somebody has subscribed by a pattern that is the name", await fetched(), "lists 0");
  await pub.publish(NAME, "{}");
  while (heard === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  console.log("and hears what is published there");
  clients.forEach((client) => client.disconnect());
  process.exit(changed ? 1 : 0);
})();
JS
timeout 60 node "$dir/waits.cjs" "$port"
