#!/usr/bin/env bash
# Some WebSocket clients deliver what a server sends after the client has called close(), and others do not, on the same
# bytes.
#
# The guess: TCP delivered the messages and the closing handshake ended cleanly, so the application has seen them.
# What happens: the interface of browsers (here undici's, which is Node's own) drops every message from the moment of
# close(), without an event. `ws` of npm and `websockets` of Python deliver them until the server's close frame. All
# three report a clean close with 1000.
# So: a browser that has called close() has not necessarily seen the replies to its last messages. An application that
# must know waits for the reply first. A test with `ws` does not show what a browser would have seen.
#
# Versions: undici 6.29.1 and ws 8.23.0 of npm, websockets 17.4 of PyPI. The server is forty lines below: it answers a
# close frame with two messages and a close frame, in one write.
set -euo pipefail
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" websockets==17.4
npm install --silent --no-audit --no-fund --prefix "$dir" undici@6.29.1 ws@8.23.0 >/dev/null
cat >"$dir/server.cjs" <<'JS'
const net = require("net");
const crypto = require("crypto");
const frame = (opcode, payload) => Buffer.concat([Buffer.from([0x80 | opcode, payload.length]), Buffer.from(payload)]);
const server = net.createServer((socket) => {
  let bytes = Buffer.alloc(0);
  let open = false;
  socket.on("error", () => {});
  socket.on("data", (more) => {
    bytes = Buffer.concat([bytes, more]);
    const end = bytes.indexOf("\r\n\r\n");
    if (!open && end < 0) return;
    if (!open) {
      const key = /sec-websocket-key: *(\S+)/i.exec(bytes.toString("latin1"))[1];
      const accept = crypto.createHash("sha1").update(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
      socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
      open = true;
      bytes = bytes.subarray(end + 4);
    }
    // The only frame that comes is a close frame of eight bytes.
    if (bytes.length < 8) return;
    const reply = [frame(1, "one"), frame(1, "two"), frame(8, [0x03, 0xe8])];
    socket.end(Buffer.concat(reply));
  });
});
server.listen(0, "127.0.0.1", () => require("fs").writeFileSync(process.argv[2], String(server.address().port)));
JS
cat >"$dir/client.cjs" <<'JS'
const [name, port] = process.argv.slice(2);
const WebSocket = name === "ws" ? require("ws") : require("undici").WebSocket;
const socket = new WebSocket(`ws://127.0.0.1:${port}`);
const heard = [];
socket.onopen = () => socket.close(1000);
socket.onmessage = (event) => heard.push(String(event.data));
socket.onclose = (event) => {
  console.log(`${heard.join(",") || "nothing"} ${event.code} ${event.wasClean ? "clean" : "broken"}`);
  process.exit();
};
JS
cat >"$dir/client.py" <<'PY'
import asyncio, sys
import websockets

async def main():
    socket = await websockets.connect("ws://127.0.0.1:" + sys.argv[1])
    await socket.close(1000)
    heard = []
    try:
        while True:
            heard.append(await socket.recv())
    except websockets.ConnectionClosedOK:
        print(",".join(heard) or "nothing", socket.close_code, "clean")

asyncio.run(main())
PY
node "$dir/server.cjs" "$dir/port" &
server=$!
for _ in $(seq 500); do [ -s "$dir/port" ] && break; sleep 0.02; done
port=$(cat "$dir/port")
changed=0
try() {
    local name=$1 expected=$2 seen
    shift 2
    seen=$(timeout 30 "$@")
    echo "$name: $seen"
    [ "$seen" = "$expected" ] || changed=1
}
try "undici 6.29.1" "nothing 1000 clean" node "$dir/client.cjs" undici "$port"
try "ws 8.23.0" "one,two 1000 clean" node "$dir/client.cjs" ws "$port"
try "websockets 17.4" "one,two 1000 clean" env PYTHONPATH="$dir/packages" python3 "$dir/client.py" "$port"
[ "$changed" = 0 ] || exit 1
echo "as before"
