# Sourced by the test programs of this folder: brings what they need, or says what is missing and how to get it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

missing() {
  echo "$1 is missing. $2" >&2
  exit 69
}

need_node() {
  command -v node >/dev/null || missing "Node.js 18.19 or newer" "apt-get install nodejs brings it, or nodejs.org."
  command -v npm >/dev/null || missing "npm" "apt-get install npm brings it."
  node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 1819 ? 1 : 0)' ||
    missing "Node.js 18.19 or newer" "This is $(node --version); nodejs.org has newer ones."
}

need_redis() {
  command -v redis-server >/dev/null || missing "redis-server" "apt-get install redis-server brings it."
}

need_chromium() {
  for candidate in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null; then
      CHROMIUM=$(command -v "$candidate")
      export CHROMIUM
      return
    fi
  done
  missing "Chromium" "apt-get install chromium brings it; CHROMIUM=/path/to/it names one that is elsewhere."
}

# The packages of the folder $1, in the versions of its lock file, unless they are there.
install_node_packages() {
  local stamp="$1/node_modules/.installed"
  cmp -s "$1/package-lock.json" "$stamp" && return
  npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error ||
    missing "A Node package" "npm ci in $1 says why."
  cp "$1/package-lock.json" "$stamp"
}

# The program that is tested: TIDEGATE_PROGRAM, or built from this source.
build_gateway() {
  if [ -z "${TIDEGATE_PROGRAM:-}" ]; then
    cargo build --quiet --manifest-path "$root/Cargo.toml" --bin tidegate
    TIDEGATE_PROGRAM=$root/target/debug/tidegate
  fi
  export TIDEGATE_PROGRAM
}
