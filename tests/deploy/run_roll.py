"""Tests deploy/roll with connected clients, over an engine that starts real gateways, and how HAProxy closes its clients."""

import os
import re
import signal
import socket
import subprocess
import time

from check_files import DEPLOY, ROOT
from engine import Engine
from run_live import handshake, masked
from stack import PATIENCE_SECONDS, Stack, get, until
from under_load import CLIENTS, came_back, load

NODES = 2
ROLL_SECONDS = 90
HAPROXY_CLIENTS = 40
CLOSE_SECONDS = 3


def checks(binaries, folder):
    rolled = Rolled(binaries, folder / "roll")
    return [
        ("deploy/roll replaces every node under clients, with nothing lost", rolled.roll),
        ("it stops at a node that ends, and leaves the others as they are", rolled.stop_at_one_that_ends),
        ("it stops at a node that does not get ready", rolled.stop_at_one_that_is_not_ready),
        ("it says what is wrong when there is nothing to roll", rolled.nothing_to_roll),
        ("without a ready gateway HAProxy answers in JSON", rolled.answers_in_json),
        ("clients of a full gateway are moved to a new one, a few at a time, with nothing lost", rolled.spread),
        ("close-clients lets clients go one by one, after a reload and before a stop", rolled.close_clients),
        ("everything of that ends", rolled.close),
    ]


class Rolled:
    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder
        self.stack = self.engine = None

    def roll(self):
        self.stack = Stack(self.binaries, self.folder, NODES + 1)
        self.engine = Engine(self.stack, self.folder / "engine")
        self.engine.scale(["-d", "--no-deps", "--no-build", "--no-recreate", "--scale", f"gateway={NODES}"])
        before = set(self.engine.containers)
        self.stack.wait_until_sent_to(NODES)
        said = []

        def roll():
            said.append(self.run_roll(ROLL_SHED_S="2"))
            clients = lambda: [self.stack.clients(address) for address in self.engine.containers.values()]
            until("the last new node has its share", lambda: min(clients()) >= CLIENTS // NODES - 3)

        report = load(self.stack, 45, roll)
        status, text = said[0]
        assert status == 0, text
        assert not before & set(self.engine.containers), "an old node is left"
        assert len(self.engine.containers) == NODES, self.engine.containers
        reasons = report["connections"]["disconnect_reasons"]
        assert all("3001" in reason for reason in reasons), f"not all were let go: {reasons}"
        return came_back(report)

    def run_roll(self, **environment):
        environment = {
            **os.environ,
            "PATH": f"{self.engine.folder}:{os.environ['PATH']}",
            "HAPROXY_STATS_PORT": str(self.stack.stats),
            **environment,
        }
        done = subprocess.run([DEPLOY / "roll"], capture_output=True, text=True, env=environment, timeout=ROLL_SECONDS)
        return done.returncode, done.stdout + done.stderr

    def unchanged_by(self, environment, **variables):
        """Rolls to nodes that cannot start, checks that the present ones stay, and returns the output."""
        before = dict(self.engine.containers)
        processes = {container: self.engine.process(container).pid for container in before}
        self.engine.environment = environment
        status, text = self.run_roll(**variables)
        self.engine.environment = {}
        assert status == 1, f"it ends with {status}: {text}"
        assert self.engine.containers == before, f"the nodes are {self.engine.containers}"
        for container, pid in processes.items():
            process = self.engine.process(container)
            assert process.pid == pid and process.poll() is None, f"{container} was touched"
        return text

    def stop_at_one_that_ends(self):
        text = self.unchanged_by({"TIDEGATE_DRAIN__GRACE_MS": "soon"})
        assert "is not ready: it has ended" in text and "drain.grace_ms" in text, text

    def stop_at_one_that_is_not_ready(self):
        # Nothing listens at this port.
        text = self.unchanged_by({"TIDEGATE_REDIS__URL": "redis://127.0.0.1:1"}, ROLL_READY_S="2")
        assert "is not ready after 2 s" in text, text

    def nothing_to_roll(self):
        containers, self.engine.containers = self.engine.containers, {}
        status, text = self.run_roll()
        self.engine.containers = containers
        assert status == 1 and "no gateway is running" in text, text
        status, text = self.run_roll(ROLL_READY_S="soon")
        assert status == 64 and "ROLL_READY_S" in text, text

    def answers_in_json(self):
        for process in self.stack.gateways.values():
            process.send_signal(signal.SIGSTOP)
        try:
            self.stack.wait_until_sent_to(0)
            for _ in range(20):
                status, text = get(f"http://127.0.0.1:{self.stack.public}/api/info", b"{}")
        finally:
            for process in self.stack.gateways.values():
                process.send_signal(signal.SIGCONT)
        assert status == 503 and '"code":100' in text and "no gateway is ready" in text, f"{status}: {text}"
        logged = (self.folder / "haproxy.log").read_text()
        assert "has no server available" in logged and "NOSRV" not in logged, "each request without a gateway is logged"
        self.stack.wait_until_sent_to(NODES)

    def spread(self):
        """Removes a node, so that the other has all clients, and starts a new one."""
        one, other = list(self.engine.containers)
        first, second = self.engine.containers[one], self.engine.containers[other]
        self.engine.answer(["stop", other])
        self.stack.wait_until_sent_to(1)
        said = []

        def act():
            assert self.stack.clients(first) == CLIENTS
            self.stack.start_gateway(self.stack.addresses.index(second))
            self.stack.wait_until_sent_to(2)
            said.append(self.run_close_clients("--spread", str(CLOSE_SECONDS)).communicate(timeout=PATIENCE_SECONDS)[0])
            until("both have their share", lambda: min(map(self.stack.clients, (first, second))) >= CLIENTS / 2 - 2)

        report = load(self.stack, 20, act)
        moved = int(re.search(r"closed (\d+) clients", said[0]).group(1))
        # The publisher's connection may be among those moved.
        assert abs(moved - CLIENTS / 2) <= 2 and abs(report["connections"]["reconnects"] - moved) <= 1, (said, report["connections"])
        return came_back(report)

    def close_clients(self):
        """Closes clients of the process from before a reload, then those of the process that is to stop."""
        here = self.connect()
        mistaken = self.folder / "mistaken.cfg"
        mistaken.write_text("nonsense\n")
        refused = subprocess.run([DEPLOY / "haproxy/reload"], env={**self.of_haproxy(), "HAPROXY_CONFIG": str(mistaken)}, capture_output=True)
        assert refused.returncode != 0 and self.workers() == (1, 0), "a configuration with a mistake is taken over"
        self.run_in_haproxy("reload")
        # The new process accepts clients at once, and those of the old one stay.
        there = self.connect()
        assert self.workers() == (1, 1), self.workers()
        assert still_open(here) == HAPROXY_CLIENTS, "the reload has cut clients"
        after_reload = self.let_go(here, "--old")
        assert still_open(there) == HAPROXY_CLIENTS, "clients of the new process were cut too"
        before_stop = self.let_go(there)
        assert handshake(self.stack.public, "127.0.0.1", patience=1)[1] == 0, "its listener is still open"
        return f"{after_reload} and {before_stop} of {HAPROXY_CLIENTS} were gone after half the time"

    def connect(self):
        clients = []
        for _ in range(HAPROXY_CLIENTS):
            client, status = handshake(self.stack.public, "127.0.0.1")
            assert status == 101, status
            # The gateway would close a client that does not connect in time.
            client.sendall(masked(b'{"id":1,"connect":{}}'))
            clients.append(client)
        return clients

    def workers(self):
        """Returns the numbers of current and of old worker processes, or None while the master restarts."""
        try:
            with socket.create_connection(("127.0.0.1", self.stack.master), timeout=5) as master:
                master.sendall(b"show proc;quit\n")
                answer = b""
                while part := master.recv(4096):
                    answer += part
        except OSError:
            return None
        now, _, old = answer.decode().partition("# old workers")
        return tuple(len(re.findall(r"^\d+\s+worker\b", part, re.M)) for part in (now, old))

    def run_close_clients(self, *arguments):
        command = [DEPLOY / "haproxy/close-clients", *arguments]
        return subprocess.Popen(command, env=self.of_haproxy(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run_in_haproxy(self, script):
        command = [DEPLOY / "haproxy" / script]
        done = subprocess.run(command, env=self.of_haproxy(), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def of_haproxy(self):
        return {
            **os.environ,
            "HAPROXY_ADMIN": str(self.stack.admin),
            "HAPROXY_MASTER": str(self.stack.master),
            "HAPROXY_CONFIG": str(self.folder / "haproxy.cfg"),
            "HAPROXY_STATE": str(self.folder / "haproxy-servers"),
        }

    def let_go(self, clients, *flags):
        """Closes all clients, and returns how many of them were gone after half the time."""
        closing = self.run_close_clients(*flags, str(CLOSE_SECONDS))
        until("it begins", lambda: still_open(clients) < len(clients))
        began = time.monotonic()
        until("half the time is over", lambda: time.monotonic() - began > CLOSE_SECONDS / 2)
        gone = len(clients) - still_open(clients)
        said = closing.communicate(timeout=PATIENCE_SECONDS)[0]
        assert closing.returncode == 0 and f"closed {len(clients)} clients" in said, said
        assert len(clients) / 4 <= gone <= len(clients) * 3 / 4, f"{gone} of {len(clients)} were gone after half the time"
        until("all are gone", lambda: still_open(clients) == 0)
        for client in clients:
            client.close()
        return gone

    def close(self):
        if self.engine:
            self.engine.close()
        if self.stack:
            self.stack.close()


def still_open(clients):
    """Returns how many of these sockets are open. Received bytes are discarded."""
    count = 0
    for client in clients:
        client.setblocking(False)
        try:
            while client.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count
