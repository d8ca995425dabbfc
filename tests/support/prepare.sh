# Sourced by the test programs: installs what they need, or says what is missing and how to get it.

. "$(dirname "${BASH_SOURCE[0]}")/programs.sh"

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

need_haproxy() {
  command -v haproxy >/dev/null || missing "haproxy" "apt-get install haproxy brings it."
}

need_openssl() {
  command -v openssl >/dev/null || missing "openssl" "apt-get install openssl brings it."
}

need_chromium() {
  find_chromium || missing "Chromium" "apt-get install chromium brings it; CHROMIUM=/path/to/it names one that is elsewhere."
}

need_python() {
  command -v python3 >/dev/null || missing "Python 3.11 or newer" "apt-get install python3 python3-venv brings it."
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    missing "Python 3.11 or newer" "This is $(python3 --version)."
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing "venv" "apt-get install python3-venv brings it."
}

# Checks whether Java programs can be built, and sets no_java to what is missing otherwise. Sets maven to a command that keeps
# its downloads in the target folder.
java_is_there() {
  maven=(mvn --batch-mode --no-transfer-progress -Dmaven.repo.local="$target/maven")
  no_java="A JDK of version 17 or newer, or Maven"
  command -v javac > /dev/null && command -v mvn > /dev/null && javac --release 17 -version > /dev/null 2>&1
}

# Installs the Node packages of the folder $1 in the versions of its lock file, if they are missing.
install_node_packages() {
  local stamp="$1/node_modules/.installed"
  cmp -s "$1/package-lock.json" "$stamp" && return
  npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error ||
    missing "A Node package" "npm ci in $1 says why."
  cp "$1/package-lock.json" "$stamp"
}

# Installs the Python packages of the file $1 into the environment $2, if they are missing.
install_python_packages() {
  cmp -s "$1" "$2/installed.txt" && return
  python3 -m venv --clear "$2"
  "$2/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$1" ||
    missing "A Python package" "pip install --requirement $1 says why."
  cp "$1" "$2/installed.txt"
}

# Ends a program that was called with --install, once everything is installed.
installed() { # arguments of the program
  [ "${1:-}" != --install ] || exit 0
}

# Runs test files, two at a time if Node supports that, because they mostly wait.
node_tests() {
  local at_once=()
  if node --test-concurrency=2 --eval '' 2> /dev/null; then at_once=(--test-concurrency=2); fi
  node --test "${at_once[@]}" --test-reporter=spec "$@"
}
