"""Runs a gateway for a test, on free ports."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jwt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "support"))

import programs  # noqa: E402

BINARY = programs.there("tidegate")
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30

SECRET = "a secret of the tests, long enough to be one"
KEY = "a-key-of-the-tests"

CONFIG = f"""
[auth]
hmac_secret = "{SECRET}"

[api]
keys = ["another-key", "{KEY}"]

[channels]
history_size = 100
history_ttl_s = 300
presence = true
allow_subscribe = true
allow_history = true
allow_presence = true

[namespaces.plain]
allow_subscribe = true

[drain]
notice_ms = 0
grace_ms = 100
"""


class Gateway:
    def __init__(self, config=CONFIG, address=None):
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "gateway.toml"
        file.write_text(config)
        self.log = Path(self.folder.name) / "log"
        # Another process may take a free port before the gateway does; then the start fails with an error.
        self.address, internal = address or free_address(), free_address()
        with self.log.open("wb") as log:
            arguments = ["serve", "--config", file, "--listen", self.address, "--internal-listen", internal]
            self.process = subprocess.Popen([BINARY, *arguments], stdout=log, stderr=log)
        host, port = self.address.split(":")
        try:
            wait_until_listening(host, int(port), self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log.read_text()}") from None

    @property
    def api(self):
        return f"http://{self.address}/api"

    @property
    def websocket(self):
        return f"ws://{self.address}/connection/websocket"

    def kill(self):
        """Ends the process as a crash would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS_MAX)
        self.folder.cleanup()

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the gateway did not stop:\n{self.log.read_text()}") from None
        text = self.log.read_text()
        self.folder.cleanup()
        if code != 0:
            raise AssertionError(f"the gateway ended with {code}:\n{text}")


class Redis:
    """A Redis for a test, on a free port, without persistence."""

    def __init__(self):
        if not shutil.which("redis-server"):
            raise AssertionError("redis-server is missing: apt-get install redis-server")
        host, port = free_address().split(":")
        self.url = f"redis://{host}:{port}"
        self.folder = tempfile.TemporaryDirectory()
        arguments = ["--port", port, "--bind", host, "--save", "", "--appendonly", "no", "--dir", self.folder.name]
        self.process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)
        wait_until_listening(host, int(port), self.process)

    def stop(self):
        self.process.terminate()
        self.process.wait(STOP_SECONDS_MAX)
        self.folder.cleanup()


def wait_until_listening(host, port, process):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"what should listen on port {port} ended with {process.returncode}")
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after {START_SECONDS_MAX} seconds")


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def token(user, seconds=60, **claims):
    return jwt.encode({"sub": user, "exp": int(time.time()) + seconds, **claims}, SECRET, algorithm="HS256")
