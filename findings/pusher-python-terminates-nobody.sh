#!/usr/bin/env bash
# The Python server library of Pusher terminates a user's connections at a path without the app's id.
#
# The guess: all calls of a library go to /apps/{id}/…, as the HTTP API defines them and as `trigger` does.
# What happens: `terminate_user_connections` signs and posts to /users/{user}/terminate_connections. A server that
# follows the API answers 404 and terminates no connection. The Node library names the app in the same call. The key in
# the query also identifies the app, so a server could find out which one is meant.
# So: users that a Python backend believes to have banned stay connected, and the server's log has a 404 that names no
# app.
#
# Versions: pusher 3.3.4 of PyPI, pusher 5.3.4 of npm.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pusher==3.3.4
npm install --silent --no-audit --no-fund --prefix "$dir" pusher@5.3.4 >/dev/null

cat >"$dir/ask.mjs" <<'JS'
import Pusher from "pusher";
const [host, port] = process.argv[2].split(":");
const pusher = new Pusher({ appId: "7", key: "key", secret: "secret", host, port, useTLS: false });
await pusher.terminateUserConnections("ann");
JS
cat >"$dir/hears.py" <<'PY'
import http.server
import subprocess
import sys
import threading

import pusher

heard = []


class Api(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        heard.append(self.path.split("?")[0])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
client = pusher.Pusher(app_id="7", key="key", secret="secret", host="127.0.0.1", port=port, ssl=False)
client.trigger("news", "hello", {})
client.terminate_user_connections("ann")
subprocess.run(["node", sys.argv[1], f"127.0.0.1:{port}"], check=True, timeout=60)
names = ["pusher 3.3.4 of PyPI, trigger", "pusher 3.3.4 of PyPI, terminate", "pusher 5.3.4 of npm, terminate"]
for name, path in zip(names, heard):
    print(f"{name}: {path}")
expected = ["/apps/7/events", "/users/ann/terminate_connections", "/apps/7/users/ann/terminate_connections"]
sys.exit(heard != expected)
PY
timeout 120 "$dir/venv/bin/python" "$dir/hears.py" "$dir/ask.mjs"
echo "as before"
