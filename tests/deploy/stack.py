"""Runs the services of docker-compose.yml on loopback without Docker: the shipped configurations with other ports."""

import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

from check_files import COMPOSE, DEPLOY, gateway_environment

PATIENCE_SECONDS = 30
SECRETS = DEPLOY / "secrets"
API_KEY = (SECRETS / "api_key").read_text().strip()


def until(what, holds, seconds=PATIENCE_SECONDS):
    """Waits until `holds` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def get(url, body=None, headers=(), timeout=5):
    """Returns the status and text of a response; the status is 0 if there is none."""
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port(addresses=("127.0.0.1",), kind=socket.SOCK_STREAM):
    """Returns a port that is free on all of these addresses."""
    while True:
        with socket.socket(type=kind) as first:
            first.bind((addresses[0], 0))
            port = first.getsockname()[1]
            try:
                for address in addresses[1:]:
                    with socket.socket(type=kind) as other:
                        other.bind((address, port))
                return port
            except OSError:
                continue


class Names:
    """The engine's DNS: one name with the addresses of all running gateways."""

    def __init__(self):
        self.addresses = []
        self.socket = socket.socket(type=socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
                self.socket.sendto(self.answer(query), client)
            except OSError:
                return

    def answer(self, query):
        end = query.index(b"\0", 12) + 1
        name, question = query[12:end], query[12 : end + 4]
        known = name == b"\7gateway\0" and question[-4:-2] == b"\0\1"
        addresses = list(self.addresses) if known else []
        flags = b"\x81\x80" if known else b"\x81\x83"
        answers = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in addresses)
        head = query[:2] + flags + b"\0\1" + len(addresses).to_bytes(2, "big") + b"\0\0\0\0"
        return head + question + answers

    def close(self):
        self.socket.close()


class Stack:
    """Redis, HAProxy and gateways at 127.0.0.11 and up, all on the same ports as containers are."""

    def __init__(self, binaries, folder, gateways, environment=(), of_haproxy=()):
        self.binaries, self.folder = binaries, folder
        folder.mkdir(exist_ok=True)
        self.addresses = [f"127.0.0.{11 + index}" for index in range(gateways)]
        self.port, self.internal = free_port(self.addresses), free_port(self.addresses)
        self.environment = {
            **gateway_environment(),
            "TIDEGATE_REDIS__URL": f"redis://127.0.0.1:{(redis := free_port())}",
            "TIDEGATE_REDIS__PASSWORD_FILE": SECRETS / "redis_password",
            "TIDEGATE_API__KEYS_FILE": SECRETS / "api_key",
            "TIDEGATE_HTTP__TRUSTED_PROXIES": "127.0.0.1/32",
            "TIDEGATE_DRAIN__GRACE_MS": "2000",
            # For the dashboard's panels on feeds.
            "TIDEGATE_FEEDS__PRICES__KIND": "redis_stream",
            "TIDEGATE_FEEDS__PRICES__REDIS_STREAM__STREAM": "prices",
            **dict(environment),
        }
        self.processes = []
        self.gateways = {}
        self.names = Names()
        command = redis_command() + f"port {redis}\nbind 127.0.0.1\ndir {folder}\nEND\n"
        self.start("redis", ["sh", "-c", command.replace("/run/secrets", str(SECRETS))])
        self.start_haproxy(dict(of_haproxy))

    def start(self, name, command, **options):
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, **options)
        self.processes.append(process)
        return process

    def start_gateway(self, index):
        """Starts a gateway, waits until it is ready, and adds it to discovery."""
        address = self.addresses[index]
        process = self.begin_gateway(address)
        until(f"the gateway at {address} is ready", lambda: self.is_ready(address))
        self.appear(address)
        return process

    def begin_gateway(self, address, environment=()):
        environment = {
            **self.environment,
            # Distinct names, as those of containers.
            "TIDEGATE_NODE__NAME": f"node-{address}",
            "TIDEGATE_SERVER__LISTEN": f"{address}:{self.port}",
            "TIDEGATE_INTERNAL__LISTEN": f"{address}:{self.internal}",
            **dict(environment),
        }
        process = self.start(f"gateway-{address}", [self.binaries["tidegate"], "serve"], env=environment)
        self.gateways[address] = process
        return process

    def is_ready(self, address):
        ask = [str(self.binaries["tidegate"]), "health", "--url", f"http://{address}:{self.internal}/readyz"]
        return subprocess.run(ask, capture_output=True).returncode == 0

    def shed(self, address, options):
        """Runs `tidegate shed` as within the container, and returns its status and output."""
        settings = {"TIDEGATE_SERVER__LISTEN": f"{address}:{self.port}"}
        asked = [str(self.binaries["tidegate"]), "shed", *options]
        done = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, **self.environment, **settings})
        return done.returncode, done.stderr if done.returncode else done.stdout

    def appear(self, address):
        """Adds a container to discovery."""
        self.names.addresses.append(address)
        self.tell_prometheus()

    def vanish(self, address):
        """Removes a container from discovery."""
        self.names.addresses.remove(address)
        self.tell_prometheus()

    def tell_prometheus(self):
        targets = [f"{address}:{self.internal}" for address in self.names.addresses]
        written = self.folder / "targets.new"
        written.write_text(json.dumps([{"targets": targets}]))
        written.replace(self.folder / "targets.json")

    def start_haproxy(self, environment):
        self.public, self.stats, self.admin, self.master = (free_port() for _ in range(4))
        config = (DEPLOY / "haproxy/haproxy.cfg").read_text()
        for shipped, here in [
            ("bind :8000", f"bind 127.0.0.1:{self.public}"),
            ("bind :8404", f"bind 127.0.0.1:{self.stats}"),
            ("127.0.0.1:9999", f"127.0.0.1:{self.admin}"),
            ("server-state-file /tmp", f"server-state-file {self.folder}"),
            ("gateway:8000", f"gateway:{self.port}"),
            ("check port 8001", f"check port {self.internal}"),
            ("parse-resolv-conf", f"nameserver names 127.0.0.1:{self.names.port}"),
        ]:
            config = replace_once(config, shipped, here)
        (self.folder / "haproxy.cfg").write_text(config)
        # As the image starts it: a master in the foreground, controlled by signals.
        command = ["haproxy", "-W", "-db", "-S", f"ipv4@127.0.0.1:{self.master}", "-f", self.folder / "haproxy.cfg"]
        self.haproxy = self.start("haproxy", command, env={**os.environ, **environment})

    def start_prometheus(self, hold="1s"):
        """Starts Prometheus with the targets of discovery in a file, which come and go as with DNS. Alerts fire after `hold`."""
        self.prometheus = free_port()
        alerts, changed = re.subn(r"^( +for): \w+$", rf"\1: {hold}", (DEPLOY / "prometheus/alerts.yml").read_text(), flags=re.M)
        assert changed > 5, "most alerts wait for a while"
        (self.folder / "alerts.yml").write_text(alerts)
        self.tell_prometheus()
        config = (DEPLOY / "prometheus/prometheus.yml").read_text()
        files = "file_sd_configs:\n      - files: [targets.json]\n\n"
        config, changed = re.subn(r"dns_sd_configs:\n.*?\n\n", files, config, flags=re.S)
        assert changed == 1, "the gateways are not found by DNS"
        config = replace_once(config, "haproxy:8404", f"127.0.0.1:{self.stats}")
        config = replace_once(config, "scrape_interval: 5s", "scrape_interval: 1s")
        config = replace_once(config, "evaluation_interval: 15s", "evaluation_interval: 1s")
        (self.folder / "prometheus.yml").write_text(config)
        listen = f"127.0.0.1:{self.prometheus}"
        self.start("prometheus", [
            "prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/tsdb",
            f"--web.listen-address={listen}",
        ])  # fmt: skip
        until("Prometheus is ready", lambda: get(f"http://{listen}/-/ready")[0] == 200)

    def wait_until_sent_to(self, count):
        """Waits until HAProxy sends clients to this many gateways."""
        metric = r'^haproxy_backend_active_servers\{proxy="gateways"\} (\d+)'
        figures = f"http://127.0.0.1:{self.stats}/metrics"

        def holds():
            found = re.search(metric, get(figures)[1], re.M)
            return found is not None and int(found.group(1)) == count

        until(f"HAProxy sends clients to {count} gateways", holds)

    def clients(self, address):
        """Returns the number of a gateway's clients."""
        text = get(f"http://{address}:{self.internal}/metrics")[1]
        return sum(int(float(value)) for value in re.findall(r"^tidegate_connections\{.*?\} (\S+)", text, re.M))

    def log(self, address):
        return (self.folder / f"gateway-{address}.log").read_text()

    def close(self):
        self.names.close()
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()


def redis_command():
    """Returns the command of the Redis container, without the end of its here-document."""
    block = re.search(r"^ +- \|\n( +exec redis-server.*?)^ +END$", COMPOSE.read_text(), re.M | re.S).group(1)
    command = "\n".join(line.strip() for line in block.splitlines()) + "\n"
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", command).replace("$$", "$")


def replace_once(text, shipped, here):
    assert text.count(shipped) == 1, f"{shipped!r} is expected once in the shipped configuration"
    return text.replace(shipped, here)
