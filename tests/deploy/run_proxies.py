"""Tests the configurations of other proxies in front of two gateways: WebSockets, event streams, a draining node, and no node."""

import json
import os
import signal
import socket
import subprocess

import packages
from check_files import DEPLOY
from run_live import handshake, masked
from stack import API_KEY, PATIENCE_SECONDS, Stack, free_port, get, replace_once, until
from under_load import came_back, load

PROXIES = DEPLOY / "proxies"
# The addresses and ports in all shipped files.
FIRST, SECOND, CLIENTS_PORT, INTERNAL_PORT = "10.0.0.11", "10.0.0.12", "8000", "8001"
CHANNEL = "prices:through"


def checks(binaries, folder):
    fronts = Fronts(binaries, folder / "proxies")
    listed = [("two gateways start for other proxies", fronts.start)]
    for front in (nginx, caddy, envoy, traefik):
        listed.append((f"{front.__name__} carries WebSockets and events, and loses nothing when a node drains", lambda front=front: fronts.try_out(front)))
    return [*listed, ("everything of other proxies ends", fronts.close)]


def nginx(stack, folder, ports):
    config = addressed("nginx.conf", stack, {f"listen {CLIENTS_PORT}": f"listen 127.0.0.1:{ports['clients']}"})
    own = f"pid {folder}/nginx.pid;\ndaemon off;\n"
    # nginx may not be allowed to write bodies to its built-in paths.
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = own + replace_once(config, "http {\n", f"http {{\n{paths}")
    (folder / "nginx.conf").write_text(config)
    return ["nginx", "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"]


def caddy(stack, folder, ports):
    config = addressed("Caddyfile", stack, {
        f"\n:{CLIENTS_PORT} {{": f"\n:{ports['clients']} {{", "127.0.0.1:2019": f"127.0.0.1:{ports['admin']}",
        f"health_port {INTERNAL_PORT}": f"health_port {stack.internal}",
    })  # fmt: skip
    (folder / "Caddyfile").write_text(config)
    return [packages.program("caddy"), "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def envoy(stack, folder, ports):
    config = addressed("envoy.yaml", stack, {"port_value: 9901": f"port_value: {ports['admin']}"})
    config = config.replace(f"0.0.0.0, port_value: {CLIENTS_PORT}", f"127.0.0.1, port_value: {ports['clients']}")
    config = config.replace(f"port_value: {CLIENTS_PORT}", f"port_value: {stack.port}")
    config = config.replace(f"health_check_config: {{port_value: {INTERNAL_PORT}}}", f"health_check_config: {{port_value: {stack.internal}}}")
    (folder / "envoy.yaml").write_text(config)
    # Without hot restart, it does not affect another running Envoy.
    return [packages.program("envoy"), "-c", folder / "envoy.yaml", "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]


def traefik(stack, folder, ports):
    static = replace_once((PROXIES / "traefik.yaml").read_text(), f'":{CLIENTS_PORT}"', f'"127.0.0.1:{ports["clients"]}"')
    (folder / "traefik.yaml").write_text(replace_once(static, "filename: ", f"filename: {folder}/"))
    gateways = addressed("traefik-gateways.yaml", stack, {f"port: {INTERNAL_PORT}": f"port: {stack.internal}"})
    (folder / "traefik-gateways.yaml").write_text(gateways)
    return [packages.program("traefik"), f"--configfile={folder}/traefik.yaml"]


def addressed(name, stack, replaced):
    """Returns a shipped configuration with the addresses and ports of this test."""
    config = (PROXIES / name).read_text()
    for shipped, here in replaced.items():
        config = replace_once(config, shipped, here)
    for shipped, here in zip((FIRST, SECOND), stack.addresses, strict=True):
        config = replace_once(config, shipped, here)
        config = config.replace(f"{here}:{CLIENTS_PORT}", f"{here}:{stack.port}")
    return config


class Fronts:
    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder
        self.stack = None

    def start(self):
        self.stack = Stack(self.binaries, self.folder, 2, {"TIDEGATE_SSE__ENABLED": "true"})
        for index in range(2):
            self.stack.start_gateway(index)

    def try_out(self, front):
        stack, folder = self.stack, self.folder / front.__name__
        folder.mkdir()
        ports = {"clients": free_port(), "admin": free_port()}
        # The proxies keep their own files here.
        home = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        process = stack.start(front.__name__, front(stack, folder, ports), env={**os.environ, **home})
        # The load tester's clients connect through the proxy too.
        stack.public = ports["clients"]
        base = f"http://127.0.0.1:{stack.public}"
        try:
            until("it serves", lambda: process.poll() is None and get(f"{base}/")[0] == 200)
            self.websocket(base)
            self.events(base)
            drained = self.drain()
            self.nobody(base, in_json=front is not traefik)
            return drained
        except AssertionError as error:
            said = (stack.folder / f"{front.__name__}.log").read_text()[-2000:]
            raise AssertionError(f"{error}\n{said}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def websocket(self, base):
        client, status = handshake(self.stack.public, "127.0.0.1")
        assert status == 101, f"a WebSocket is answered {status}"
        with client:
            command = json.dumps({"id": 1, "connect": {}}) + "\n" + json.dumps({"id": 2, "subscribe": {"channel": CHANNEL}})
            client.sendall(masked(command.encode()))
            read_until(client, b'"subscribe"')
            publish(base, "to-sockets")
            read_until(client, b"to-sockets")

    def events(self, base):
        with socket.create_connection(("127.0.0.1", self.stack.public), timeout=PATIENCE_SECONDS) as client:
            client.sendall(f"GET /sse?channel={CHANNEL} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
            head = read_until(client, b"\r\n\r\n").lower()
            assert b" 200 " in head and b"text/event-stream" in head, head
            # Each event arrives before the next one is sent, so the proxy does not buffer.
            for number in range(3):
                publish(base, f"event-{number}")
                read_until(client, f"event-{number}".encode())

    def drain(self):
        stack, (first, second) = self.stack, self.stack.addresses

        def act():
            there = stack.clients(first)
            assert there >= 5, f"{there} clients are at the node that drains"
            stack.gateways[first].send_signal(signal.SIGTERM)
            until("all clients are at the other", lambda: stack.clients(second) == 40)

        report = load(stack, 12, act)
        assert stack.gateways[first].wait(PATIENCE_SECONDS) == 0, "it did not end by itself"
        stack.vanish(first)
        reasons = report["connections"]["disconnect_reasons"]
        assert set(reasons) and all("3001" in reason for reason in reasons), f"not let go with 3001: {reasons}"
        assert report["publications"]["failed"] == 0, report["publications"]
        return came_back(report)

    def nobody(self, base, in_json):
        """Without a node the proxy answers with an error, and passes requests on again once there is a node."""
        second = self.stack.addresses[1]
        self.stack.gateways[second].kill()
        self.stack.gateways[second].wait()
        self.stack.vanish(second)
        until("requests are refused", lambda: 500 <= get(f"{base}/")[0] < 600)
        status, text = get(f"{base}/api/info", b"{}")
        assert not in_json or json.loads(text)["error"]["code"] == 100, f"{status}: {text}"
        for index in range(2):
            self.stack.start_gateway(index)
        until("requests are answered", lambda: get(f"{base}/")[0] == 200)

    def close(self):
        if self.stack:
            self.stack.close()


def publish(base, word):
    body = json.dumps({"channel": CHANNEL, "data": {"word": word}}).encode()
    status, text = get(f"{base}/api/publish", body, {"X-API-Key": API_KEY, "Content-Type": "application/json"})
    assert status == 200 and '"result"' in text, f"{status}: {text}"


def read_until(client, words):
    client.settimeout(PATIENCE_SECONDS)
    read = b""
    while words not in read:
        part = client.recv(4096)
        assert part, f"closed before {words}: {read[-500:]}"
        read += part
    return read
