"""Publishes every message to all clients, with its sender."""
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

API = os.environ.get("GATEWAY", "http://127.0.0.1:8000") + "/api/publish"
HEADERS = {"Content-Type": "application/json", "X-API-Key": "change-this-key-of-the-broadcast-example"}


class Broadcast(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
        data = {"from": self.headers["tidegate-client"][:8], "text": text}
        body = json.dumps({"channel": self.headers["tidegate-channel"], "data": data}).encode()
        try:
            urlopen(Request(API, body, HEADERS), timeout=5).close()
            self.send_response(204)
        except OSError:
            self.send_response(502)
            self.send_header("Content-Length", "0")
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Broadcast).serve_forever()
