#!/usr/bin/env python3
"""Measures how long publishing is interrupted, and how much is lost, when Redis Sentinel makes another server the master.

Starts a master, its replicas, three Sentinels and one gateway with `redis.mode = "sentinel"`, and stops them afterwards. Publishes
messages over the server API, one after the other, while the master changes:

    tests/failover/measure.py planned killed hung                        with redis-server and the debug build
    tests/failover/measure.py planned --replicas 2 --min-replicas        with min-replicas-to-write 1, min-replicas-max-lag 1
    tests/failover/measure.py coordinated --server target/tools/valkey-server

Prints for each run: `down`, the longest time between two accepted publications; `behind`, the time from the first write that the new
master accepted to the first publication there; `told`, the time to that publication from when the first Sentinel named the new
master; `lost`, the accepted publications that are in no history afterwards, and the time from the first to the last of them."""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHANNEL = "stream:measured"
KEY = "key-of-the-measurement"
# The deadline of every wait, in seconds.
PATIENCE = 40


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, *words, timeout=1.0):
    """Sends one command on a new connection, and returns the raw answer, which may be an error."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.settimeout(timeout)
        parts = [str(word).encode() for word in words]
        connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        answer = connection.recv(1 << 16)
        return answer.decode(errors="replace")


def until(what, done):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"not within {PATIENCE} s: {what}")


class World:
    def __init__(self, options, folder):
        self.processes = []
        self.folder = folder
        # The ports in use, so that no port is assigned twice.
        self.ports = set()
        server = options.server
        replicates = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        if options.min_replicas:
            replicates += ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]
        self.servers = {}
        for _ in range(1 + options.replicas):
            port = self.port()
            self.servers[port] = self.start(
                server, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, *replicates
            )
        self.old, *self.replicas = self.servers
        until("the servers answer", lambda: all("PONG" in ask(port, "PING") for port in self.servers))
        for replica in self.replicas:
            ask(replica, "REPLICAOF", "127.0.0.1", self.old)
        until(
            "the replicas are in sync",
            lambda: all("master_link_status:up" in ask(replica, "INFO", "replication") for replica in self.replicas),
        )
        self.sentinels = []
        for _ in range(3):
            port = self.port()
            file = folder / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor watched 127.0.0.1 {self.old} 2\n"
                f"sentinel down-after-milliseconds watched {options.down_after_ms}\nsentinel failover-timeout watched 10000\n"
            )
            self.start(server, file, "--sentinel")
            self.sentinels.append(port)

        def know_all():
            states = [ask(port, "SENTINEL", "MASTER", "watched") for port in self.sentinels]
            return all(f"num-slaves\r\n$1\r\n{options.replicas}" in state and "num-other-sentinels\r\n$1\r\n2" in state for state in states)

        until("the Sentinels know each other and all replicas", know_all)
        self.api, internal = self.port(), self.port()
        settings = {
            "SERVER__LISTEN": f"127.0.0.1:{self.api}",
            "INTERNAL__LISTEN": f"127.0.0.1:{internal}",
            "API__KEYS": KEY,
            "AUTH__ALLOW_ANONYMOUS": "true",
            "BROKER__KIND": "redis",
            "REDIS__MODE": "sentinel",
            "REDIS__ADDRESSES": ",".join(f"127.0.0.1:{port}" for port in self.sentinels),
            "REDIS__SENTINEL_MASTER": "watched",
            "NAMESPACES__STREAM__HISTORY_SIZE": "1000000",
            "NAMESPACES__STREAM__HISTORY_TTL_S": "600",
            "TELEMETRY__LOG_LEVEL": "error",
        }
        environment = {**os.environ, **{f"TIDEGATE_{key}": value for key, value in settings.items()}}
        self.start(options.gateway, "serve", env=environment)
        until("the gateway is ready", lambda: self.is_ready(internal))

    def port(self):
        while (port := free_port()) in self.ports:
            pass
        self.ports.add(port)
        return port

    def start(self, *command, env=None):
        process = subprocess.Popen(
            [str(part) for part in command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    @staticmethod
    def is_ready(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200

    def end(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.processes:
            process.wait()


class Publisher(threading.Thread):
    """Publishes numbers, one after the other, and records when each was accepted, and in which epoch."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.accepted, self.stop = port, [], threading.Event()

    def run(self):
        connection, number = None, 0
        while not self.stop.is_set():
            number += 1
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                body = json.dumps({"channel": CHANNEL, "data": number})
                connection.request("POST", "/api/publish", body, {"X-API-Key": KEY})
                answer = json.loads(connection.getresponse().read())
                if "result" in answer:
                    self.accepted.append((time.monotonic(), number, answer["result"]["epoch"]))
            except (OSError, http.client.HTTPException, ValueError):
                connection = None
            time.sleep(0.001)


class Watch(threading.Thread):
    """Records when a condition first holds."""

    def __init__(self, holds):
        super().__init__(daemon=True)
        self.holds, self.at, self.stop = holds, None, threading.Event()

    def run(self):
        while not self.stop.is_set() and self.at is None:
            try:
                if self.holds():
                    self.at = time.monotonic()
            except OSError:
                pass
            time.sleep(0.002)


def change(world, manner):
    """Causes the failover, and returns the time."""
    at = time.monotonic()
    if manner == "killed":
        world.servers[world.old].kill()
    elif manner == "hung":
        world.servers[world.old].send_signal(signal.SIGSTOP)
    else:
        words = ["COORDINATED"] if manner == "coordinated" else []
        answer = ask(world.sentinels[0], "SENTINEL", "FAILOVER", "watched", *words)
        if "+OK" not in answer:
            raise SystemExit(f"no failover: {answer}")
    return at


def history(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    found, since = set(), None
    while True:
        asked = {"channel": CHANNEL, "limit": 1000, **({"since": since} if since else {})}
        connection.request("POST", "/api/history", json.dumps(asked), {"X-API-Key": KEY})
        result = json.loads(connection.getresponse().read())["result"]
        publications = result.get("publications") or []
        if not publications:
            return found
        found.update(publication["data"] for publication in publications)
        since = {"epoch": result["epoch"], "offset": publications[-1]["offset"]}


def measure(options, manner):
    with tempfile.TemporaryDirectory() as folder:
        world = World(options, Path(folder))
        try:
            publisher = Publisher(world.api)
            publisher.start()
            until("publications are accepted", lambda: len(publisher.accepted) > 200)
            # A replica that accepts a write has been promoted. The Sentinels then name another master.
            promoted = [Watch(lambda port=port: "+OK" in ask(port, "SET", "probe", "1")) for port in world.replicas]
            name = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "watched"]
            told = [Watch(lambda port=port: str(world.old) not in ask(port, *name)) for port in world.sentinels]
            for watch in promoted + told:
                watch.start()
            began = change(world, manner)
            until("a replica is promoted", lambda: any(watch.at for watch in promoted))
            epoch = publisher.accepted[0][2]
            until("publications are accepted there", lambda: publisher.accepted[-1][2] != epoch)
            # Until Sentinel has demoted the old master, if it still accepts writes.
            time.sleep(options.after_s)
            for thread in [publisher, *promoted, *told]:
                thread.stop.set()
                thread.join()
            times = [at for at, _, _ in publisher.accepted]
            down = max(after - before for before, after in zip(times, times[1:]) if after >= began)
            first = next(at for at, _, of in publisher.accepted if of != epoch)
            kept = history(world.api)
            lost = [at for at, number, _ in publisher.accepted if number not in kept]

            def since(watches):
                return first - min(watch.at for watch in watches if watch.at)

            return {
                "down": down,
                "behind": since(promoted),
                "told": since(told),
                "lost": len(lost),
                "span": lost[-1] - lost[0] if lost else 0.0,
                "accepted": len(times),
            }
        finally:
            world.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manners", nargs="+", choices=["planned", "coordinated", "killed", "hung"])
    parser.add_argument("--server", default="redis-server", help="redis-server, or another make of it")
    parser.add_argument("--gateway", default=ROOT / "target/debug/tidegate", type=Path)
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--replicas", default=1, type=int)
    parser.add_argument("--min-replicas", action="store_true", help="min-replicas-to-write 1, min-replicas-max-lag 1")
    parser.add_argument("--down-after-ms", default=1000, type=int, help="Sentinel's down-after-milliseconds")
    parser.add_argument("--after-s", default=3.0, type=float, help="seconds for which publishing goes on")
    options = parser.parse_args()
    for manner in options.manners:
        runs = []
        for _ in range(options.runs):
            run = measure(options, manner)
            runs.append(run)
            print(
                f"{manner}: down {run['down'] * 1000:.0f} ms, behind {run['behind'] * 1000:.0f} ms, "
                f"told {run['told'] * 1000:.0f} ms, lost {run['lost']} of {run['accepted']}, of {run['span'] * 1000:.0f} ms",
                flush=True,
            )
        for name in ["down", "behind", "told", "span"]:
            values = [run[name] * 1000 for run in runs]
            print(f"{manner}: {name}: median {statistics.median(values):.0f} ms, most {max(values):.0f} ms")
        print(f"{manner}: lost: {[run['lost'] for run in runs]}")


if __name__ == "__main__":
    main()
