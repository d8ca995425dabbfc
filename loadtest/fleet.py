"""Shared by the scripts with several load testers: the nodes, Redis and load testers that they start, and their figures."""

import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from programs import environment, program  # noqa: E402

START_SECONDS, STOP_SECONDS, POLL_SECONDS = 60, 20, 0.1

# The memory of one connection: both ends in the kernel, the node, and the holder. Somewhat more than measured.
BYTES_PER_CONNECTION = 16 << 10
# The memory of one node and its holder before the first connection, and a reserve for everything else.
BYTES_PER_NODE, BYTES_SPARE = 24 << 20, 512 << 20
SPARE_DESCRIPTORS, NODES_MAX = 200, 1_000
# The most connections from one source address, and the most source addresses of one holder.
PER_SOURCE, SOURCES_MAX = 12_000, 200


PR_SET_PDEATHSIG = 1
# Looked up before anything forks. Only Linux has prctl.
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
SCRIPT = os.getpid()
# The signals that end a script: Ctrl-C, a request to terminate, and the loss of its terminal.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failure(Exception):
    """The run cannot be made, or missed a deadline."""


def end_when_told():
    """Makes each of the signals end the script as Ctrl-C does. Later signals are ignored, so that the cleanup is not interrupted."""

    def end(*_):
        ignore_endings()
        sys.exit(130)

    for ending in ENDINGS:
        # A signal that is ignored at the start, as by `nohup`, stays ignored.
        if signal.getsignal(ending) != signal.SIG_IGN:
            signal.signal(ending, end)


def ignore_endings():
    for ending in ENDINGS:
        # With SIG_IGN, Python complains about signals that arrived at the same moment.
        signal.signal(ending, lambda *_: None)


def run_script(main):
    """Runs a script to its end, and leaves exit status 1 to broken thresholds."""
    end_when_told()
    try:
        main()
    except Exception:  # After any error, nothing was measured.
        traceback.print_exc()
        sys.exit(2)


def die_with_parent():
    """Makes the kernel kill this process when the thread that started it ends for any reason."""
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def tie_to_script():
    """Runs in a new process before its program, so that it does not outlive the script. Only the script's main thread may start it."""
    die_with_parent()
    if os.getppid() != SCRIPT:
        # The script ended before the kernel was told.
        os._exit(1)


def start(command, **more):
    return subprocess.Popen(command, preexec_fn=tie_to_script, **more)


def hear(pipe, seconds, who):
    """Receives a message from another process of the script on a pipe."""
    try:
        if pipe.poll(seconds):
            return pipe.recv()
    except (EOFError, OSError) as error:
        raise Failure(f"{who} has ended") from error
    raise Failure(f"{who} said nothing within {seconds:.0f} s")


def binary(name):
    """Returns the program of this name, which is built with optimizations unless TIDEGATE_BIN_DIR has it."""
    try:
        return program(name, "release")
    except subprocess.CalledProcessError as error:
        raise Failure(f"{name} does not build") from error


def wait(what, seconds, holds):
    """Waits until `holds` returns something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def ask(port, path, body=None, key=None, seconds=10):
    """Sends one request on a new connection. Returns the status and text of the response, or None without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        head = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), head)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def payload(run, sequence, size, at_ns=None):
    """Returns JSON that load testers recognize as a publication of this run, due at this time of their clock, or now."""
    due = time.monotonic_ns() if at_ns is None else at_ns
    mark = f'{{"mark":"tgm-{run:08x}-{0:06x}-{sequence:010x}-{due:016x}"'
    padding = max(0, size - len(mark) - len(',"pad":""}'))
    return mark + (f',"pad":"{"7" * padding}"}}' if padding else "}")


def processor_seconds(pids):
    """Returns the CPU time that the processes have used. A process that is gone counts as 0."""
    ticks = 0
    for pid in pids:
        try:
            # The name in brackets may contain spaces.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pids, field):
    """Returns the sum of a memory field of the processes: Rss or Pss."""
    total = 0
    for pid in pids:
        try:
            found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) * 1024
        except OSError:
            pass
    return total


def nodes_for(connections, per_node, available, descriptors, files_left):
    """Returns how many nodes are needed, or fails if they do not fit.

    >>> room = dict(available=21 << 30, descriptors=20_000, files_left=2_400_000)
    >>> nodes_for(1_000_000, 19_000, **room), nodes_for(10, 19_000, **room)
    (53, 1)
    >>> nodes_for(1_000_000, 19_000, **{**room, "available": 4 << 30})
    Traceback (most recent call last):
    fleet.Failure: 1,000,000 connections need about 17,409 MiB of memory and 4,096 MiB are available: some 212,225 would fit
    >>> nodes_for(40_000, 19_900, **room)
    Traceback (most recent call last):
    fleet.Failure: 19,900 connections a node need more file descriptors than a process may open (20,000): a smaller --per-node
    >>> nodes_for(10, 10, **{**room, "files_left": 9})
    Traceback (most recent call last):
    fleet.Failure: all processes together may open 9 more files (fs.file-max), and 420 are needed
    >>> nodes_for(100_000, 1, **room)
    Traceback (most recent call last):
    fleet.Failure: 100,000 nodes are more than 1,000: take a larger --per-node
    """
    nodes, on_a_node = -(-connections // per_node), min(connections, per_node)
    if nodes > NODES_MAX:
        raise Failure(f"{nodes:,} nodes are more than {NODES_MAX:,}: take a larger --per-node")
    if on_a_node + SPARE_DESCRIPTORS > descriptors:
        problem = f"file descriptors than a process may open ({descriptors:,}): a smaller --per-node"
        raise Failure(f"{on_a_node:,} connections a node need more {problem}")
    if on_a_node > PER_SOURCE * SOURCES_MAX:
        raise Failure(f"{on_a_node:,} connections a node need more than {SOURCES_MAX} source addresses")
    files = 2 * (connections + nodes * SPARE_DESCRIPTORS)
    if files > files_left:
        raise Failure(f"all processes together may open {files_left:,} more files (fs.file-max), and {files:,} are needed")
    needed = connections * BYTES_PER_CONNECTION + nodes * BYTES_PER_NODE + BYTES_SPARE
    if needed > available:
        fit = max(0, available - BYTES_SPARE) // (BYTES_PER_CONNECTION + BYTES_PER_NODE // on_a_node)
        memory = f"{needed >> 20:,} MiB of memory and {available >> 20:,} MiB are available"
        raise Failure(f"{connections:,} connections need about {memory}: some {fit:,} would fit")
    return nodes


def steady(rates):
    """Returns the rates of the seconds in which a drain was under way, without the first two and the last two.

    >>> steady([0, 120, 400, 490, 510, 300, 20, 0])
    [490, 510]
    """
    busy = [place for place, came in enumerate(rates) if came > 0]
    return rates[busy[0] + 2 : busy[-1] - 1] if busy else []


def latency(late):
    """Returns percentiles in milliseconds of durations in nanoseconds, or None without any.

    >>> figures = latency(range(1_000_000, 101_000_000, 1_000_000))
    >>> [figures[key] for key in ("count", "min", "mean", "p50", "p99", "max")]
    [100, 1.0, 50.5, 51.0, 100.0, 100.0]
    """
    late = sorted(nanos / 1e6 for nanos in late)

    def at(quantile):
        return late[min(len(late) - 1, int(len(late) * quantile))]

    if not late:
        return None
    figures = {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": late[-1]}
    return {"count": len(late), "min": late[0], "mean": sum(late) / len(late), **figures}


class Node:
    """A node of the gateway, which restarts at the same addresses."""

    def __init__(self, number, scratch, words=(), settings=()):
        self.name, self.port, self.internal = f"node-{number}", free_port(), free_port()
        self.log, self.words, self.settings = scratch / f"{self.name}.log", words, dict(settings)
        self.process = None

    def start(self):
        addresses = ["--listen", f"127.0.0.1:{self.port}", "--internal-listen", f"127.0.0.1:{self.internal}"]
        settings = {**self.settings, "TIDEGATE_NODE__NAME": self.name}
        with self.log.open("ab") as log:
            command = [binary("tidegate"), "serve", *self.words, *addresses]
            self.process = start(command, stderr=log, env=environment(settings))

    def await_ready(self):
        wait(f"{self.name} is ready", START_SECONDS, self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode}: {self.log.read_text()[-500:]}")
        answer = ask(self.internal, "/readyz")
        return answer is not None and answer[0] == 200

    def metric(self, name):
        """Returns the sum of the samples with this prefix, 0 without any, or None if the node does not answer."""
        answer = ask(self.internal, "/metrics")
        if answer is None or answer[0] != 200:
            return None
        samples = re.findall(rf"^{re.escape(name)}[^ \n]* ([0-9.e+]+)$", answer[1], re.MULTILINE)
        return sum(map(float, samples))


class Fleet:
    """Everything that a script has started. All of it ends with the fleet, or with the script if that is killed."""

    def __init__(self, scratch):
        self.scratch, self.nodes, self.holders, self.others = scratch, [], [], []

    def start_other(self, command):
        process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.others.append(process)
        return process

    def start_redis(self, *more):
        """Starts a Redis without persistence, and returns its port."""
        port = free_port()
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.start_other(["redis-server", *words, *more])
        wait("Redis is there", START_SECONDS, lambda: answers(port))
        return port

    def start_nodes(self, count, words=(), settings=()):
        for number in range(count):
            self.nodes.append(Node(number, self.scratch, words, settings))
            self.nodes[-1].start()
        for node in self.nodes:
            node.await_ready()

    def start_holder(self, words, settings=()):
        """Starts another load tester, which writes its report beside its log."""
        number = len(self.holders)
        command = [binary("tidegate-loadtest"), *words, "--quiet", "--json", self.scratch / f"holder-{number}.json"]
        given = {**os.environ, "TIDEGATE_LOADTEST_TOKEN_SECRET": "", **dict(settings)}
        # An empty secret is removed, because the load tester would sign with it.
        given = {name: value for name, value in given.items() if value}
        with (self.scratch / f"holder-{number}.log").open("wb") as log:
            self.holders.append(start(list(map(str, command)), stdout=log, stderr=log, env=given))

    def check_holders(self):
        for number, holder in enumerate(self.holders):
            if holder.poll() is not None:
                raise Failure(f"load tester {number} ended with {holder.returncode}: {self.said(number)}")

    def await_holder(self, number, seconds):
        """Waits for a load tester to end by itself, and returns its exit status."""
        try:
            return self.holders[number].wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"load tester {number} did not end within {seconds:.0f} s: {self.said(number)}") from late

    def said(self, number):
        return (self.scratch / f"holder-{number}.log").read_text()[-500:]

    def reports(self):
        return [json.loads((self.scratch / f"holder-{number}.json").read_text()) for number in range(len(self.holders))]

    def connections(self):
        return sum(node.metric("tidegate_connections{") or 0 for node in self.nodes)

    def end(self):
        """Kills holders and nodes at once, so that no client reconnects; asks other processes to end, and kills those that do not."""
        # A second Ctrl-C would leave the rest running.
        ignore_endings()
        for process in [*self.holders, *(node.process for node in self.nodes)]:
            if process and process.poll() is None:
                process.kill()
        for process in self.others:
            process.terminate()
        for process in [*self.holders, *(node.process for node in self.nodes), *self.others]:
            try:
                if process:
                    process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
