"""Tests what Prometheus, a collector of traces and `tidegate top` show of two gateways over one Redis."""

import http.server
import json
import os
import pty
import re
import secrets
import signal
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from check_files import ALERTS, dashboard_expressions
from stack import free_port, get, until

CHANNEL = "chat:watched"
PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
OPEN_METRICS = "application/openmetrics-text;version=1.0.0"


def checks(binaries, folder):
    watched = Watched(binaries, folder / "watching")
    return [
        ("a publication is one trace from the API at one node to its delivery at another", watched.trace),
        ("promtool finds nothing wrong with the metrics", watched.lint),
        ("metrics come in the format that is asked for", watched.formats),
        ("Prometheus takes exemplars from OpenMetrics", watched.exemplars),
        ("and native histograms with exemplars from protobuf", watched.native),
        ("tidegate top shows both nodes, what goes through them, and the channel", watched.top),
        ("a node that is gone is shown as such, and comes back", watched.come_back),
        ("tidegate top gives the terminal back while it is stopped", watched.screen),
        ("everything of that ends too", watched.close),
    ]


class Watched:
    def __init__(self, binaries, folder):
        self.tidegate, self.folder = binaries["tidegate"], folder
        self.processes, self.nodes, self.spans, self.traces = [], {}, [], set()

    def start(self, name, command, environment=()):
        log = open(self.folder / f"{name}.log", "ab")
        environment = {**os.environ, **dict(environment)}
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, env=environment)
        self.processes.append(process)
        return process

    def start_node(self, name):
        if name not in self.nodes:
            self.nodes[name] = {"listen": free_port(), "internal": free_port()}
        node = self.nodes[name]
        node["process"] = self.start(f"gateway-{name}", [self.tidegate, "serve", "--demo"], {
            "TIDEGATE_SERVER__LISTEN": f"127.0.0.1:{node['listen']}",
            "TIDEGATE_INTERNAL__LISTEN": f"127.0.0.1:{node['internal']}",
            "TIDEGATE_BROKER__KIND": "redis",
            "TIDEGATE_REDIS__URL": f"redis://127.0.0.1:{self.redis}",
            "TIDEGATE_NODE__NAME": name,
            "TIDEGATE_DEMO__FEED": "false",
            "TIDEGATE_TELEMETRY__NODE_LABEL": "true",
            "TIDEGATE_TELEMETRY__SERVICE_NAME": name,
            "TIDEGATE_TELEMETRY__OTLP_ENDPOINT": f"http://127.0.0.1:{self.collector.server_port}",
            # Only requests whose caller traces them are traced.
            "TIDEGATE_TELEMETRY__TRACE_RATIO": "0",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        })  # fmt: skip
        until(f"{name} is ready", lambda: get(f"{self.internal(name)}/readyz")[0] == 200)

    def internal(self, name):
        return f"http://127.0.0.1:{self.nodes[name]['internal']}"

    def trace(self):
        self.folder.mkdir()
        self.redis = free_port()
        self.start("redis", ["redis-server", "--port", self.redis, "--save", "", "--dir", self.folder])
        until("Redis answers", lambda: listens(self.redis))
        self.collector = collector(self.spans)
        self.start_node("here")
        self.start_node("there")
        # Each node has to learn that the other supports stamps.
        until("both see both", lambda: all(self.value(name, "tidegate_nodes") == 2 for name in self.nodes))
        self.subscriber = subscribe(self.nodes["there"]["listen"])

        def joined():
            trace = secrets.token_hex(16)
            self.traces.add(trace)
            self.publish(trace)
            self.subscriber.recv(4096)
            deliveries = lambda: [span for span in list(self.spans) if span["trace"] == trace and span["name"] == "deliver"]
            found = until("its delivery is traced", deliveries)[0]
            asked = lambda: [span for span in list(self.spans) if span["id"] == found["parent"]]
            publish = until("what it follows from is traced", asked)[0]
            return found, publish

        # Once the subscriber has received something, its node is subscribed.
        until("it hears what is published at the other", self.heard)
        deliver, publish = joined()
        assert (deliver["service"], publish["service"]) == ("there", "here"), (deliver, publish)
        assert publish["name"] == "publish" and publish["trace"] == deliver["trace"], publish

    def heard(self):
        self.publish()
        self.subscriber.settimeout(0.2)
        try:
            return self.subscriber.recv(4096)
        except TimeoutError:
            return None
        finally:
            self.subscriber.settimeout(10)

    def publish(self, trace=None):
        body = json.dumps({"channel": CHANNEL, "data": {"price": 1}}).encode()
        headers = {"X-API-Key": "demo", **({"traceparent": f"00-{trace}-b7ad6b7169203331-01"} if trace else {})}
        status, answer = get(f"http://127.0.0.1:{self.nodes['here']['listen']}/api/publish", body, headers)
        assert status == 200 and "error" not in answer, answer

    def value(self, name, metric):
        found = re.search(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", get(f"{self.internal(name)}/metrics")[1], re.M)
        return float(found.group(1)) if found else None

    def lint(self):
        for name in self.nodes:
            text = get(f"{self.internal(name)}/metrics")[1]
            done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stdout + done.stderr

    def formats(self):
        found = {}
        for accept in [None, OPEN_METRICS, PROTOBUF]:
            request = urllib.request.Request(f"{self.internal('there')}/metrics", headers={"Accept": accept} if accept else {})
            with urllib.request.urlopen(request, timeout=5) as response:
                found[accept] = response.headers["Content-Type"], response.read()
        assert found[None][0].startswith("text/plain; version=0.0.4") and b"# EOF" not in found[None][1]
        assert found[OPEN_METRICS][0].startswith("application/openmetrics-text; version=1.0.0")
        assert found[OPEN_METRICS][1].endswith(b"# EOF\n")
        assert found[PROTOBUF][0].startswith("application/vnd.google.protobuf") and b"tidegate_stage_seconds" in found[PROTOBUF][1]

    def exemplars(self):
        prometheus = self.start_prometheus("plain", "exemplar-storage")
        trace = self.exemplar_of(prometheus)
        query = 'histogram_quantile(0.99, sum by (le) (tidegate_stage_seconds_bucket{stage="broker"}))'
        value = until("buckets are there", lambda: self.ask(prometheus, query))
        return f"trace {trace}, {float(value) * 1000:.1f} ms"

    def native(self):
        prometheus = self.start_prometheus("native", "exemplar-storage,native-histograms")
        self.exemplar_of(prometheus)
        for stage, node in [("ingress", "here"), ("broker", "there"), ("node", "there"), ("queue", "there"), ("socket", "there")]:
            query = f'histogram_quantile(0.99, tidegate_stage_seconds{{stage="{stage}", node="{node}"}})'
            value = float(until(f"{stage} is there", lambda query=query: self.ask(prometheus, query)))
            assert 0 <= value < 30, f"{query} is {value}"
        counted = float(self.ask(prometheus, 'histogram_count(tidegate_stage_seconds{stage="broker", node="there"})'))
        assert counted >= 1, counted
        # The alerts on late publications work without classic buckets, which are not kept here.
        assert self.ask(prometheus, "count(tidegate_delivery_seconds_bucket)") is None
        late = r'sum\(rate\(tidegate_delivery_seconds_bucket\{le="0\.25"\}\[5m\]\)\) / .*?histogram_fraction\(.*?\[5m\]\)\)\)'
        ratio = re.search(late, ALERTS.read_text()).group(0)

        shares = until("the alerts see publications", lambda: self.published_then(prometheus, ratio))
        assert len(shares) == 1 and 0 <= shares[0] <= 1, f"{ratio} is {shares}"
        # The dashboard does not need classic buckets either.
        timed = [(title, text) for title, text in dashboard_expressions() if re.search(r"tidegate_(stage|delivery)_seconds_bucket", text)]
        assert len(timed) >= 4, timed
        for title, expression in timed:
            values = until(f"{title} shows something", lambda text=expression: self.published_then(prometheus, text))
            assert all(0 <= value < 30 for value in values), f"{expression} is {values}"
        # Other histograms have their classic buckets.
        assert self.ask(prometheus, 'tidegate_publish_to_socket_seconds_bucket{node="there", le="+Inf"}')

    def published_then(self, prometheus, expression):
        """Publishes once more, and returns the values of an expression about publications, or None if there are none yet."""
        self.publish(secrets.token_hex(16))
        values = [float(one["value"][1]) for one in self.found(prometheus, expression)]
        return [value for value in values if value == value] or None

    def start_prometheus(self, name, features):
        targets = ", ".join(f"'127.0.0.1:{node['internal']}'" for node in self.nodes.values())
        (self.folder / f"{name}.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: tidegate, static_configs: [{{targets: [{targets}]}}]}}]\n"
        )
        listen = f"127.0.0.1:{free_port()}"
        self.start(name, [
            "prometheus", f"--config.file={self.folder}/{name}.yml", f"--storage.tsdb.path={self.folder}/{name}",
            f"--web.listen-address={listen}", f"--enable-feature={features}",
        ])  # fmt: skip
        until("Prometheus is ready", lambda: get(f"http://{listen}/-/ready")[0] == 200)
        return listen

    def exemplar_of(self, prometheus):
        """Publishes with a trace, and waits until Prometheus has its exemplar."""
        trace = secrets.token_hex(16)
        self.traces.add(trace)
        # A new subscriber, because the last one answers no pings and is soon closed.
        self.subscriber = subscribe(self.nodes["there"]["listen"])
        until("it hears", self.heard)
        self.publish(trace)

        def kept():
            query = urllib.parse.urlencode({"query": 'tidegate_stage_seconds_bucket{stage="broker"}', "start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"})
            text = get(f"http://{prometheus}/api/v1/query_exemplars?{query}")[1]
            traces = [one["labels"].get("trace_id") for series in json.loads(text)["data"] for one in series["exemplars"]]
            return trace in traces

        # With native histograms, exemplars belong to the histogram: Prometheus 2.42 takes only that of the shortest latency.
        def kept_native():
            query = urllib.parse.urlencode({"query": 'tidegate_stage_seconds{stage="broker"}', "start": "2020-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z"})
            text = get(f"http://{prometheus}/api/v1/query_exemplars?{query}")[1]
            traces = {one["labels"].get("trace_id") for series in json.loads(text)["data"] for one in series["exemplars"]}
            return bool(traces & self.traces)

        until("its trace is an exemplar", lambda: kept() or kept_native())
        return trace

    def found(self, prometheus, expression):
        query = urllib.parse.urlencode({"query": expression})
        answer = json.loads(get(f"http://{prometheus}/api/v1/query?{query}")[1])
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def ask(self, prometheus, expression):
        found = self.found(prometheus, expression)
        return found[0]["value"][1] if len(found) == 1 else None

    def top_command(self, *more, key="demo"):
        nodes = [flag for name in self.nodes for flag in ("--node", self.internal(name))]
        api = f"http://127.0.0.1:{self.nodes['here']['listen']}"
        return [str(self.tidegate), "top", *nodes, "--api", api, "--key", key, *more]

    def top(self):
        stop = threading.Event()
        publishing = threading.Thread(target=lambda: self.keep_publishing(stop))
        publishing.start()
        try:
            done = subprocess.run(self.top_command("--once"), capture_output=True, text=True, timeout=60)
        finally:
            stop.set()
            publishing.join()
        assert done.returncode == 0, done.stderr
        page = done.stdout
        here, there = (re.search(rf"^{name} +ready +(\d+) +(\d+)", page, re.M) for name in ("here", "there"))
        assert here and there, page
        assert here.groups() == ("0", "0") and there.groups() == ("1", "1"), page
        assert re.search(r"^broker +\S+s +\S+s +\S+s +[1-9]\d*$", page, re.M), f"no latencies:\n{page}"
        assert re.search(rf"^ +1 .* {CHANNEL}$", page, re.M), f"no channel:\n{page}"
        narrow = subprocess.run(
            self.top_command("--once", "--channels", "0"), capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "40"}
        )
        assert narrow.returncode == 0 and max(len(line) for line in narrow.stdout.splitlines()) <= 40, narrow.stdout
        wrong = subprocess.run(self.top_command("--once", key="wrong"), capture_output=True, text=True, timeout=60)
        assert wrong.returncode == 0 and "channels: the gateway refused the request" in wrong.stdout, (wrong.stdout, wrong.stderr)

    def keep_publishing(self, stop):
        while not stop.wait(0.02):
            self.publish()

    def come_back(self):
        log = self.folder / "top.log"
        with log.open("wb") as out:
            watching = subprocess.Popen(self.top_command("--interval-ms", "200"), stdout=out, stderr=subprocess.STDOUT)
        self.processes.append(watching)
        pages = lambda: log.read_text().split("\n\nnode ")
        until("both are shown", lambda: re.search(r"^there +ready", pages()[-1], re.M))
        process = self.nodes["there"]["process"]
        process.kill()
        process.wait()
        until("one is gone", lambda: re.search(r"^there +gone +for \d+ s: .*refused", pages()[-1], re.M))
        self.start_node("there")
        until("it is back", lambda: re.search(r"^there +ready", pages()[-1], re.M))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
        assert "\x1b" not in log.read_text(), "who is no terminal is sent its control sequences"
        alone = subprocess.run([str(self.tidegate), "top", "--once", "--channels", "0", "--node", f"http://127.0.0.1:{free_port()}"], capture_output=True, text=True, timeout=60)
        assert alone.returncode == 1 and " gone " in alone.stdout, (alone.returncode, alone.stdout, alone.stderr)

    def screen(self):
        """Runs `tidegate top` in a terminal, stops it as Ctrl-Z does, and continues it."""
        opens, closes = b"\x1b[?1049h", b"\x1b[?1049l"
        ours, theirs = pty.openpty()
        watching = subprocess.Popen(self.top_command("--interval-ms", "200"), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        self.processes.append(watching)
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = bytearray()

        def shows(text, since=0):
            try:
                shown.extend(os.read(ours, 65536))
            except BlockingIOError:
                pass
            return text in shown[since:]

        def is_stopped():
            return re.search(r"^State:\s+T", Path(f"/proc/{watching.pid}/status").read_text(), re.M)

        until("a page is shown", lambda: shows(opens) and shows(b"there"))
        before = len(shown)
        watching.send_signal(signal.SIGTSTP)
        until("it is stopped", is_stopped)
        assert shows(closes, before), "the shell has its screen back"
        before = len(shown)
        watching.send_signal(signal.SIGCONT)
        until("a page is shown again", lambda: shows(opens, before) and shows(b"there", before))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
        until("the screen is closed", lambda: shows(closes, before))
        os.close(ours)

    def close(self):
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
        self.collector.shutdown()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def subscribe(port):
    """Returns a client of the bare endpoint, which receives publications as frames."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(
        f"GET /raw/{CHANNEL} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return client


def collector(spans):
    """Starts a collector of traces, which keeps the identity of each span."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource_spans in fields(body).get(1, []):
                parts = fields(resource_spans)
                attributes = [fields(pair) for pair in fields(parts[1][0]).get(1, [])]
                service = next(fields(pair[2][0])[1][0].decode() for pair in attributes if pair[1] == [b"service.name"])
                for span in (span for scope in parts.get(2, []) for span in fields(scope).get(2, [])):
                    of = fields(span)
                    parent = of.get(4, [b""])[0].hex()
                    spans.append({"service": service, "trace": of[1][0].hex(), "id": of[2][0].hex(), "parent": parent, "name": of[5][0].decode()})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def fields(message):
    """Returns the fields of a Protobuf message by number: bytes for fields with a length, and numbers."""
    found, at = {}, 0

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        tag = number()
        kind = tag & 7
        if kind == 0:
            value = number()
        else:
            length = {1: 8, 5: 4}.get(kind) or number()
            value, at = message[at : at + length], at + length
        found.setdefault(tag >> 3, []).append(value)
    return found
