"""Adds the room and the sender to each message, and refuses messages that are too long."""
import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Rooms(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = base64.b64decode(asked["b64data"]).decode(errors="replace")
        who = asked.get("user") or "stranger-" + asked["client"][:4]
        data = {"room": asked["channel"].removeprefix("room:"), "from": who, "text": text}
        too_long = {"disconnect": {"code": 4500, "reason": "too long"}}
        answer = json.dumps(too_long if len(text) > 500 else {"result": {"data": data}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Rooms).serve_forever()
