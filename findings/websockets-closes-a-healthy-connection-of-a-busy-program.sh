#!/usr/bin/env bash
# A Python client that processes messages slowly closes its own healthy connection, because its library no longer reads
# the pongs.
#
# The guess: `websockets` reads, answers pings and checks the connection in the background (`ping_interval` 20 s,
# `ping_timeout` 20 s). A program that is busy with a message for a while finds the next messages waiting, and the
# connection open.
# What happens: with 16 waiting messages the library stops reading (`max_queue`), so that TCP slows the server down.
# Pings and pongs are behind these messages and are not read either. The server's pings remain unanswered, and the
# client's own ping, which the server answered, counts as lost: the client closes with 1011, "keepalive ping timeout".
# Ten waiting messages are harmless and forty are not, although the program is equally fast in both cases. A program
# over `ws` of npm that processes one message after the other in the same way keeps its connection.
# So: a burst, such as a recovery, disconnects clients that take longer for all of it than an interval and a timeout.
# They reconnect, receive it again, and so on. A client should read into a queue of its own (or set `max_queue=None`)
# and process elsewhere. If a server sees the ping timeout of one client to which it has just sent much, the network is
# probably not the cause.
#
# Versions: websockets 17.4 of PyPI, ws 8.23.0 of npm. Intervals and timeouts are one second instead of twenty; a
# message takes half a second.
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" websockets==17.4
npm install --silent --no-audit --no-fund --prefix "$dir" ws@8.23.0 >/dev/null
cat >"$dir/server.cjs" <<'JS'
// Sends as many messages as the path says, at once, pings every second, and closes a second after the client has said "done".
const fs = require("fs");
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
server.on("connection", (socket, request) => {
  let pinged = 0, answered = 0;
  for (let number = Number(request.url.slice(1)); number > 0; number -= 1) socket.send("message");
  const timer = setInterval(() => { pinged += 1; socket.ping(); }, 1000);
  socket.on("pong", () => { answered += 1; });
  socket.on("message", () => socket.close(1000));
  socket.on("error", () => {});
  socket.on("close", (code, reason) => {
    clearInterval(timer);
    const pongs = answered === 0 ? "none" : pinged - answered <= 1 ? "all" : "some";
    fs.writeFileSync(process.argv[2] + "/closed", `${code} ${String(reason) || "-"}, ${pongs} of the server's pings were answered`);
  });
});
server.on("listening", () => fs.writeFileSync(process.argv[2] + "/port", String(server.address().port)));
JS
cat >"$dir/client.py" <<'PY'
import asyncio, sys
import websockets

async def main():
    url, count = sys.argv[1], int(sys.argv[2])
    worked = 0
    async with websockets.connect(f"{url}/{count}", ping_interval=1, ping_timeout=1) as socket:
        try:
            async for _ in socket:
                await asyncio.sleep(0.5)
                worked += 1
                if worked == count:
                    await socket.send("done")
        except websockets.ConnectionClosed:
            pass

asyncio.run(main())
PY
cat >"$dir/client.cjs" <<'JS'
const WebSocket = require("ws");
const [url, count] = process.argv.slice(2);
const socket = new WebSocket(`${url}/${count}`);
let work = Promise.resolve(), worked = 0;
socket.on("message", () => {
  work = work.then(() => new Promise((done) => setTimeout(done, 500))).then(() => {
    worked += 1;
    if (worked === Number(count)) socket.send("done");
  });
});
JS
node "$dir/server.cjs" "$dir" &
server=$!
for _ in $(seq 500); do [ -s "$dir/port" ] && break; sleep 0.02; done
url="ws://127.0.0.1:$(cat "$dir/port")"
changed=0
try() {
  local name=$1 count=$2 expected=$3 seen
  shift 3
  rm -f "$dir/closed"
  timeout 60 "$@" "$url" "$count"
  for _ in $(seq 500); do [ -s "$dir/closed" ] && break; sleep 0.02; done
  seen=$(cat "$dir/closed")
  echo "$name, $count messages at once: closed with $seen"
  [ "$seen" = "$expected" ] || changed=1
}
try "websockets 17.4" 10 "1000 -, all of the server's pings were answered" env PYTHONPATH="$dir/packages" python3 "$dir/client.py"
try "websockets 17.4" 40 "1011 keepalive ping timeout, none of the server's pings were answered" \
  env PYTHONPATH="$dir/packages" python3 "$dir/client.py"
try "ws 8.23.0" 40 "1000 -, all of the server's pings were answered" node "$dir/client.cjs"
[ "$changed" = 0 ] || exit 1
echo "as before"
