# Sourced: defines where the programs under test are, and where test artifacts go.
#
#   TIDEGATE_BIN_DIR   a folder with the programs tidegate and tidegate-loadtest; without it, Cargo builds them from this
#                      source
#   CARGO_TARGET_DIR   the target folder of Cargo, also for tools, environments and screenshots; by default target/

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# An absolute path, so that it names the same folder in every working directory.
export CARGO_TARGET_DIR=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
target=$CARGO_TARGET_DIR

# build_programs PROFILE PACKAGE...: sets and exports TIDEGATE_BIN_DIR.
build_programs() {
  if [ -z "${TIDEGATE_BIN_DIR:-}" ]; then
    local profile=$1 package packages=()
    shift
    for package in "$@"; do packages+=(--package "$package"); done
    cargo build --manifest-path "$root/Cargo.toml" --profile "$profile" "${packages[@]}"
    # The folder of the profile `dev` is called debug.
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
