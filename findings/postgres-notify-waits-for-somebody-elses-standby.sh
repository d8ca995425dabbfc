#!/usr/bin/env bash
# A PostgreSQL commit that need not wait for a standby waits for one all the same if it has a NOTIFY, in any database of
# the server.
#
# The guess: synchronous_commit applies to each transaction separately. With `local` or `off` a transaction commits at
# once, while transactions with `on` wait for an unavailable standby. They delay no other transaction, unless it wants
# the same rows. So the documentation says.
# What happens: before it commits, a transaction with a NOTIFY takes a server-wide lock, so that notifications have the
# order of commits. It keeps the lock while it waits for the standby. Every other NOTIFY waits behind it, whatever its
# setting, channel and database. Without NOTIFY all of them commit. Nothing points to the standby: they wait for
# `Lock/object`, not for `SyncRep`.
# So: a trigger that notifies (of an outbox, for example) makes all writers of a server one queue. Transactions that
# must continue without a standby must not notify, and databases that must not affect each other belong on separate
# servers.
#
# Versions: PostgreSQL as installed (seen with 15.18), psycopg 3.3.9 of PyPI. The standby is a name without a server.
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill -INT "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" 'psycopg[binary]==3.3.9'
# The server takes no root: there it runs as somebody without rights.
as=()
mkdir "$dir/run"
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
  chmod 755 "$dir"
  chown nobody:nogroup "$dir/run"
fi
bin=$(find /usr/lib/postgresql/*/bin -maxdepth 0 | sort -V | tail -1)
cd "$dir/run"
"${as[@]}" "$bin/initdb" -D "$dir/run/data" -U me -A trust --no-sync >"$dir/initdb.log"
"${as[@]}" "$bin/postgres" -D "$dir/run/data" -k "$dir/run" -c listen_addresses= -c fsync=off >"$dir/server.log" 2>&1 &
server=$!
for _ in $(seq 300); do "$bin/pg_isready" -q -h "$dir/run" && break; sleep 0.1; done
PYTHONPATH="$dir/packages" timeout 120 python3 - "$dir/run" <<'PY'
import sys, threading, time
import psycopg

def connect(database="postgres"):
    return psycopg.connect(host=sys.argv[1], user="me", dbname=database, autocommit=True)

watcher = connect()
watcher.execute("CREATE TABLE t (n int)")
watcher.execute("CREATE DATABASE other")
connect("other").execute("CREATE TABLE t (n int)")
print("PostgreSQL", watcher.info.parameter_status("server_version"))

def standby(name):
    watcher.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    watcher.execute("SELECT pg_reload_conf()")
    until = time.time() + 20
    while connect().execute("SHOW synchronous_standby_names").fetchone()[0] != name:
        assert time.time() < until, "the setting does not take"
        time.sleep(0.1)

class Commit:
    """A transaction that inserts, in a session of its own, and commits in a thread."""

    def __init__(self, notify, setting, database="postgres"):
        self.connection = connect(database)
        self.pid = self.connection.info.backend_pid
        for statement in [f"SET synchronous_commit = {setting}", "BEGIN", "INSERT INTO t VALUES (1)"]:
            self.connection.execute(statement)
        if notify:
            self.connection.execute("NOTIFY " + notify)
        self.thread = threading.Thread(target=self.connection.execute, args=["COMMIT"], daemon=True)
        self.thread.start()

    def outcome(self):
        self.thread.join(2)
        if not self.thread.is_alive():
            return "commits"
        waits = watcher.execute("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s", [self.pid])
        return "waits for " + "/".join(waits.fetchone())

CASES = [
    ("local, without NOTIFY", (None, "local"), "commits", "commits"),
    ("local, NOTIFY of another channel", ("b", "local"), "commits", "waits for Lock/object"),
    ("local, NOTIFY in another database", ("c", "local", "other"), "commits", "waits for Lock/object"),
    ("off, NOTIFY in another database", ("d", "off", "other"), "commits", "waits for Lock/object"),
]
changed = False
for round, notify in enumerate([None, "a"]):
    standby("away")
    first = Commit(notify, "on")
    until = time.time() + 20
    while (seen := first.outcome()) != "waits for IPC/SyncRep":
        assert time.time() < until, seen
    print(f"a transaction {'with NOTIFY' if notify else 'without NOTIFY'} {seen}; meanwhile")
    others = [Commit(*how) for _, how, *_ in CASES]
    for (name, _, *expected), other in zip(CASES, others):
        seen = other.outcome()
        print(f"   {name}: {seen}")
        changed |= seen != expected[round]
    standby("")
    for commit in [first, *others]:
        commit.thread.join(20)
        changed |= commit.thread.is_alive()
        commit.connection.close()
sys.exit(1 if changed else 0)
PY
echo "as before"
