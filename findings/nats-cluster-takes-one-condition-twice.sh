#!/usr/bin/env bash
# A replicated stream of NATS 2.9 accepts two messages on a condition that only one of them meets.
#
# The guess: with Nats-Expected-Last-Subject-Sequence a message is added only behind the message that it names. If two
# messages name the same one, one of them is refused, whichever server they reach.
# What happens: if the stream has replicas, the leader compares the condition with what it has stored, not with what is
# in flight to the other servers. Two messages that arrive together are both confirmed, each with a sequence of its own.
# With one replica, and in later releases, the second is refused.
# So: conditional writes to a replicated stream need a server that enforces the condition. The version in Debian 12 does
# not.
#
# Versions: nats-server as installed (seen with 2.9.10; 2.15.1 refuses the second message).
set -euo pipefail
dir=$(mktemp -d)
end() {
  kill $(jobs -p) 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
nats-server --version
read -r -a ports <<< "$(python3 - <<'P'
import socket
sockets = [socket.socket() for _ in range(6)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
P
)"
routes="\"nats://127.0.0.1:${ports[3]}\", \"nats://127.0.0.1:${ports[4]}\", \"nats://127.0.0.1:${ports[5]}\""
for n in 0 1 2; do
  cat > "$dir/$n.conf" <<C
server_name: s$n
listen: "127.0.0.1:${ports[$n]}"
jetstream { store_dir: "$dir/$n" }
cluster { name: c, listen: "127.0.0.1:${ports[$((n + 3))]}", routes: [$routes] }
C
  nats-server --config "$dir/$n.conf" > "$dir/$n.log" 2>&1 &
done
cat > "$dir/ask.py" <<'P'
import json, socket, sys, time

class Connection:
    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", port), 5).makefile("rwb")
        self.file.readline()
        self.send(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB answer 1\r\n')

    def send(self, text):
        self.file.write(text)
        self.file.flush()

    def answer(self):
        while True:
            words = self.file.readline().split()
            if words[:1] == [b"PING"]:
                self.send(b"PONG\r\n")
            elif words[:1] in ([b"MSG"], [b"HMSG"]):
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                return self.file.read(int(words[-1]) + 2)[head:-2]

    def ask(self, subject, request):
        body = json.dumps(request).encode()
        self.send(b"PUB $JS.API.%s answer %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        return json.loads(self.answer() or b"{}")

def behind(subject, sequence):
    head = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % sequence
    return b"HPUB %s answer %d %d\r\n%sx\r\n" % (subject, len(head), len(head) + 1, head)

# A cluster that has no leader yet does not answer at all, and a connection that has waited in vain is no good any more.
def with_stream(name, replicas, until):
    stream = {"name": name, "subjects": [f"{name}.*"], "num_replicas": replicas, "storage": "file"}
    while True:
        try:
            connection = Connection(int(sys.argv[1]))
            if "config" in connection.ask(f"STREAM.CREATE.{name}", stream):
                return connection
        except OSError:
            pass
        assert time.time() < until, "the stream cannot be made"
        time.sleep(0.5)

def taken_twice(replicas):
    name = f"r{replicas}"
    connection = with_stream(name, replicas, time.time() + 60)
    last, twice = 0, 0
    for _ in range(200):
        connection.send(behind(name.encode() + b".a", last) * 2)
        sequences = [answer["seq"] for answer in (json.loads(connection.answer() or b"{}") for _ in range(2)) if answer.get("seq")]
        twice += len(sequences) == 2
        last = max(sequences, default=last)
    return twice

alone, replicated = taken_twice(1), taken_twice(3)
print(f"of 200 pairs both were taken: {alone} with one replica, {replicated} with three")
sys.exit(0 if alone == 0 and replicated > 0 else "changed: it was none, and some")
P
timeout 150 python3 "$dir/ask.py" "${ports[0]}"
