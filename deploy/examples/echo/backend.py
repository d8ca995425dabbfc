"""Answers every message with the same message."""
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        message = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", self.headers["Content-Type"])
        self.send_header("Content-Length", str(len(message)))
        self.end_headers()
        self.wfile.write(message)


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Echo).serve_forever()
