# Sourced: where programs under test are, and where everything else goes that is made on the way.
#
#   TIDEGATE_BIN_DIR   a folder with the programs tidegate and tidegate-loadtest; without it they are built from this
#                      source, and are where Cargo puts them
#   CARGO_TARGET_DIR   where Cargo puts things, and tools, environments and screenshots with them; target/ without it

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# From here on it names the same folder wherever a program is started.
export CARGO_TARGET_DIR=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
target=$CARGO_TARGET_DIR

# build_programs PROFILE PACKAGE...: sets and exports TIDEGATE_BIN_DIR.
build_programs() {
  if [ -z "${TIDEGATE_BIN_DIR:-}" ]; then
    local profile=$1 package packages=()
    shift
    for package in "$@"; do packages+=(--package "$package"); done
    cargo build --manifest-path "$root/Cargo.toml" --profile "$profile" "${packages[@]}"
    # The profile `dev` is the one whose folder has another name.
    TIDEGATE_BIN_DIR=$target/${profile/#dev/debug}
  fi
  export TIDEGATE_BIN_DIR
}

# Any Chromium will do. Exports CHROMIUM.
find_chromium() {
  local candidate
  for candidate in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$candidate" ] && command -v "$candidate" > /dev/null; then
      CHROMIUM=$(command -v "$candidate")
      export CHROMIUM
      return
    fi
  done
  return 1
}
