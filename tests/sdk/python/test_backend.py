"""Tests the backends in the page about hooks as they are written there, and its statements about signatures."""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gateway import CONFIG, Gateway, free_address, wait_until_listening
from live import LiveTestCase

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backend.md"
ADDRESS = "127.0.0.1:3000"
PORT = re.compile(r"\b3000\b(?! to)")
SECRET = "a secret of the hooks, long enough to be one"
STOP_SECONDS_MAX = 10


def example(language, beginning):
    """Returns the only block of the page in this language with this beginning."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(beginning)]
    return found


class Backends(LiveTestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.secret = Path(self.folder.name) / "hooks"
        self.secret.write_text(SECRET)

    def gateway_for(self, address):
        config = example("toml", "[backend]").replace("/run/secrets/hooks", str(self.secret))
        self.assertIn(ADDRESS, config)
        gateway = Gateway(CONFIG + config.replace(ADDRESS, address))
        self.addCleanup(gateway.stop)
        return gateway

    def start(self, *command, program):
        host, port = free_address().split(":")
        self.assertEqual(len(PORT.findall(program)), 1)
        file = Path(self.folder.name) / "backend.mjs"
        file.write_text(PORT.sub(port, program))
        process = subprocess.Popen([*command, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def stop():
            process.terminate()
            process.wait(STOP_SECONDS_MAX)

        self.addCleanup(stop)
        wait_until_listening(host, int(port), process)
        return f"{host}:{port}"

    async def use(self, gateway):
        client, events = await self.connect_to(gateway, "")
        await events.expect("connected")
        subscription, heard = await self.subscribe(client, "chat:a")
        await subscription.publish({"text": "hello"})
        publication = (await heard.expect("publication")).pub
        self.assertEqual(publication.data, {"clean": {"text": "hello"}})
        result = await client.rpc("add", [1, 2])
        self.assertEqual(result.data, {"called": "add", "with": [1, 2]})

    async def test_the_backend_in_python_serves_a_client(self):
        address = self.start(sys.executable, program=example("python", "import json"))
        await self.use(self.gateway_for(address))

    async def test_the_backend_in_node_serves_a_client(self):
        self.assertTrue(shutil.which("node"), "node is missing: apt-get install nodejs")
        address = self.start("node", program=example("js", "import { createServer }"))
        await self.use(self.gateway_for(address))

    async def test_requests_are_genuine_by_the_function_of_the_page_and_others_are_not(self):
        asked = []

        class Recorder(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                asked.append((self.path, self.headers, body))
                answer = b'{"result": {"user": "ann"}}'
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever).start()
        host, port = server.server_address
        client, events = await self.connect_to(self.gateway_for(f"{host}:{port}"), "")
        await events.expect("connected")
        await client.rpc("add", [1, 2])
        page = {}
        exec(example("python", "import hashlib"), page)
        is_genuine = page["is_genuine"]
        checked = [entry for entry in asked if entry[0] in ("/connect", "/rpc")]
        self.assertEqual([path for path, _, _ in checked], ["/connect", "/rpc"])
        for _, headers, body in checked:
            self.assertTrue(is_genuine(SECRET.encode(), headers, body))
            self.assertFalse(is_genuine(b"another secret", headers, body))
            self.assertFalse(is_genuine(SECRET.encode(), headers, body + b" "))
