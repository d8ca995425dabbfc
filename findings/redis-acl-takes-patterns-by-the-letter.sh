#!/usr/bin/env bash
# A Redis ACL permission for a channel pattern does not allow subscribing to a narrower pattern.
#
# The guess: a user with `&shop*` may PSUBSCRIBE `shop#a#*`, because everything that this can match is allowed.
# What happens: Redis matches channels against the patterns of an ACL, but compares patterns with them literally. With
# `&shop*`, SUBSCRIBE `shop#a#` is allowed and PSUBSCRIBE `shop#a#*` is not: it needs the permission `&shop#a#*`,
# written identically. A pattern without wildcards, `shop-request`, is also compared as a pattern.
# So: documentation of the permissions that a program needs has to name its patterns exactly as the program writes them.
#
# Versions: redis-server as installed (seen with 7.0.15).
set -euo pipefail
dir=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap end EXIT
redis-server --port 0 --unixsocket "$dir/socket" --save "" --appendonly no --dir "$dir" >/dev/null &
server=$!
for _ in $(seq 100); do [ -S "$dir/socket" ] && break; sleep 0.1; done
redis-cli -s "$dir/socket" ACL SETUSER narrow on '>p' '&shop*' +subscribe +psubscribe >/dev/null
redis-cli -s "$dir/socket" ACL SETUSER exact on '>p' '&shop#a#*' +subscribe +psubscribe >/dev/null
try() {
  local user=$1 expected=$2 outcome="neither allowed nor refused"
  shift 2
  # A subscription does not end by itself.
  timeout 1 redis-cli -s "$dir/socket" --no-auth-warning --user "$user" --pass p "$@" >"$dir/said" 2>&1 || true
  ! grep -q NOPERM "$dir/said" || outcome=refused
  ! grep -qi '^p\?subscribe$' "$dir/said" || outcome=allowed
  echo "$user: $*: $outcome"
  if [ "$outcome" != "$expected" ]; then
    echo "changed: it was $expected" >&2
    exit 1
  fi
}
try narrow allowed SUBSCRIBE 'shop#a#'
try narrow refused PSUBSCRIBE 'shop#a#*'
try narrow refused PSUBSCRIBE 'shop-request'
try exact allowed PSUBSCRIBE 'shop#a#*'
