"""Runs the shipped configurations: clients through HAProxy, gateways that die, stop and are added, and Prometheus."""

import json
import re
import signal
import socket
import subprocess
import urllib.parse

from check_files import alert_expressions, dashboard_expressions, selected, services
from stack import API_KEY, PATIENCE_SECONDS, SECRETS, Stack, get, until
from under_load import CHANNELS, CLIENTS, RATE, came_back, load

# Metrics that exist only with several Redis servers; the shipped stack has one. alerts_test.yml covers them.
OF_SHARDS = "tidegate_broker_shard_"
LOAD_SECONDS = 8


def checks(binaries, folder):
    """Returns the checks of one stack, each of which continues from the state that the one before left."""
    live = Live(binaries, folder)
    return [
        ("clients behind HAProxy count by their own address", lambda: own_addresses(binaries, folder / "addresses")),
        ("a proxy in front says who a client is, and nobody else may", lambda: proxied_addresses(binaries, folder / "proxied")),
        ("three nodes' worth of parts start", live.start),
        ("the page and the API are reached through HAProxy, and nothing internal", live.reach),
        ("the publisher feeds prices through HAProxy until its container is stopped", live.publish),
        ("clients are shared out, and each gets everything", live.share),
        ("clients of a killed gateway come back by another, with nothing lost", live.kill),
        ("a gateway that is added gets clients", live.add),
        ("a command that is not allowed is refused and counted", live.refuse),
        ("clients of a gateway that stops leave it at its own pace, with nothing lost", live.drain),
        ("every expression of the dashboard and the alerts finds something", live.ask_prometheus),
        ("everything ends", live.close),
    ]


class Live:
    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder / "live"
        self.stack = None

    def start(self):
        self.stack = stack = Stack(self.binaries, self.folder, 3)
        stack.start_prometheus()
        self.first, self.second, self.third = stack.addresses
        stack.start_gateway(0)
        stack.start_gateway(1)
        stack.wait_until_sent_to(2)

    def reach(self):
        base = f"http://127.0.0.1:{self.stack.public}"
        until("the page comes through HAProxy", lambda: "<html" in get(f"{base}/")[1])
        for path in ["/metrics", "/readyz", "/livez"]:
            assert get(base + path)[0] == 404, f"{path} is open to the public"
        body = b'{"channel":"prices:AAPL","data":{"close":1}}'
        assert get(f"{base}/api/publish", body)[0] == 401, "the API is open"
        status, answer = get(f"{base}/api/publish", body, {"X-API-Key": API_KEY})
        assert status == 200 and json.loads(answer)["result"]["offset"] >= 1, answer

    def publish(self):
        command = services()["publisher"]["command"]
        command = [part.replace("haproxy:8000", f"127.0.0.1:{self.stack.public}") for part in command]
        environment = {"TIDEGATE_API_KEY_FILE": str(SECRETS / "api_key")}
        publisher = self.stack.start("publisher", [self.binaries["tidegate"], *command], env=environment)
        until("prices are published", lambda: self.offset("prices:MSFT") > 1)
        publisher.send_signal(signal.SIGTERM)
        status = publisher.wait(PATIENCE_SECONDS)
        report = (self.folder / "publisher.log").read_text().strip()
        assert status == 0, f"it ends with {status}: {report}"
        return report

    def offset(self, channel):
        body = json.dumps({"channel": channel, "limit": 0}).encode()
        answer = get(f"http://127.0.0.1:{self.stack.public}/api/history", body, {"X-API-Key": API_KEY})[1]
        return json.loads(answer)["result"]["offset"]

    def share(self):
        counts = []
        report = load(self.stack, 2, lambda: counts.extend(self.clients()))
        assert sum(counts) == CLIENTS and abs(counts[0] - counts[1]) <= 2, f"the nodes have {counts} clients"
        assert report["connections"]["disconnects"] == 0, report["connections"]
        assert report["deliveries"]["received"] == 2 * RATE * CLIENTS // CHANNELS, report["deliveries"]
        return f"{counts[0]} and {counts[1]}, {report['deliveries']['received']} deliveries"

    def kill(self):
        def act():
            self.stack.gateways[self.first].kill()
            self.stack.vanish(self.first)
            until("all clients are at the other", lambda: self.stack.clients(self.second) == CLIENTS)

        report = load(self.stack, LOAD_SECONDS, act)
        self.stack.wait_until_sent_to(1)
        return came_back(report)

    def add(self):
        self.stack.start_gateway(2)
        self.stack.wait_until_sent_to(2)
        counts = []
        load(self.stack, 2, lambda: counts.extend(self.stack.clients(address) for address in (self.second, self.third)))
        assert sum(counts) == CLIENTS and min(counts) > CLIENTS // 4, f"the nodes have {counts} clients"
        return f"{counts[0]} and {counts[1]}"

    def refuse(self):
        client, status = handshake(self.stack.public, "127.0.0.21")
        assert status == 101, status
        with client:
            command = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"nowhere:at-all"}}'
            client.sendall(masked(command))
            client.settimeout(PATIENCE_SECONDS)
            answer = b""
            while b'"error"' not in answer:
                part = client.recv(4096)
                assert part, f"no refusal: {answer}"
                answer += part

    def drain(self):
        gateway = self.stack.gateways[self.second]

        def act():
            gateway.send_signal(signal.SIGTERM)
            until("all clients are at the other", lambda: self.stack.clients(self.third) == CLIENTS)

        # The notice, the grace period, and the time to reconnect.
        report = load(self.stack, LOAD_SECONDS + 4, act)
        assert gateway.wait(PATIENCE_SECONDS) == 0, f"it ends with {gateway.returncode}"
        reasons = report["connections"]["disconnect_reasons"]
        assert any("3001" in reason for reason in reasons), f"not closed with 3001: {reasons}"
        assert report["publications"]["failed"] == 0, report["publications"]
        return came_back(report)

    def ask_prometheus(self):
        empty = []
        # alerts_test.yml and run_alerts check whether alerts fire. This checks that their metrics exist.
        selectors = [(where, one) for where, expression in alert_expressions() for one in selected(expression)]
        expressions = dashboard_expressions() + selectors
        for where, expression in expressions:
            if OF_SHARDS in expression:
                continue
            # Without the threshold at the end.
            if not until_found(self.stack.prometheus, re.sub(r" (==|>|<) [\d.]+$", "", expression)):
                empty.append(f"{where}: {expression}")
        assert not empty, "nothing is found by\n" + "\n".join(empty)
        rules = json.loads(get(f"http://127.0.0.1:{self.stack.prometheus}/api/v1/rules")[1])
        sick = [rule["name"] for group in rules["data"]["groups"] for rule in group["rules"] if rule["health"] != "ok"]
        assert not sick, f"these alerts cannot be evaluated: {sick}"
        return f"{len(expressions)} expressions"

    def close(self):
        if self.stack:
            self.stack.close()

    def clients(self):
        return [self.stack.clients(self.first), self.stack.clients(self.second)]


def until_found(prometheus, expression):
    query = urllib.parse.urlencode({"query": expression})

    def answer():
        status, text = get(f"http://127.0.0.1:{prometheus}/api/v1/query?{query}")
        assert status == 200, f"{expression}: {text}"
        return json.loads(text)["data"]["result"]

    try:
        return until("it finds something", answer, seconds=3)
    except AssertionError as error:
        if "not within" not in str(error):
            raise
        return None


def own_addresses(binaries, folder):
    """With one client allowed per address, the address that HAProxy reports counts, not one that the client claims."""
    stack = Stack(binaries, folder, 1, {"TIDEGATE_LIMITS__CONNECTIONS_PER_ADDRESS_MAX": "1"})
    try:
        stack.start_gateway(0)
        stack.wait_until_sent_to(1)
        first, status = handshake(stack.public, "127.0.0.21")
        assert status == 101, f"the first client is answered {status}"
        second, status = handshake(stack.public, "127.0.0.22")
        assert status == 101, f"a client of another address is answered {status}"
        again, status = handshake(stack.public, "127.0.0.21", "X-Forwarded-For: 127.0.0.99\r\n")
        assert status != 101, "a client that lies about its address gets in a second time"
        for client in (first, second, again):
            client.close()
        return f"the second of an address is answered {status}"
    finally:
        stack.close()


def proxied_addresses(binaries, folder):
    """The same with a proxy in front that sends the PROXY protocol."""
    proxy, first, second, stranger = "127.0.0.31", "127.0.0.41", "127.0.0.42", "127.0.0.51"
    environment = {"TIDEGATE_LIMITS__CONNECTIONS_PER_ADDRESS_MAX": "1"}
    stack = Stack(binaries, folder, 1, environment, {"PROXY_PROTOCOL_FROM": proxy})
    try:
        stack.start_gateway(0)
        stack.wait_until_sent_to(1)
        clients, statuses = [], []
        for source, said in ((proxy, first), (proxy, second), (proxy, first), (stranger, second), (stranger, None)):
            line = f"PROXY TCP4 {said} 127.0.0.1 4000 {stack.public}\r\n" if said else ""
            client, status = handshake(stack.public, source, before=line)
            # The clients stay open, because closed ones no longer count.
            clients.append(client)
            statuses.append(status)
        assert statuses[:2] == [101, 101], f"clients of two addresses are answered {statuses}"
        assert statuses[2] == 429, f"the second of an address is answered {statuses}"
        assert statuses[3] == 400, f"whoever is no proxy is believed: {statuses}"
        assert statuses[4] == 101, f"who comes without a proxy is answered {statuses}"
    finally:
        stack.close()


def masked(text):
    """Returns a short text frame, masked with zeros, which leave the text as it is."""
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text


def handshake(port, source, header="", patience=5, before=""):
    """Returns a client and the status of the response, or 0 without one. `before` is sent before the request."""
    try:
        client = socket.create_connection(("127.0.0.1", port), timeout=patience, source_address=(source, 0))
    except OSError:
        return None, 0
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head = f"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    client.sendall(f"{before}{head}{key}{header}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = client.recv(4096)
        if not part:
            break
        answer += part
    return client, int(answer.split()[1]) if answer else 0
