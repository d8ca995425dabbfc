"""Where programs under test are, as tests/support/programs.sh has it."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# As Cargo reads it: relative to where it is started, which is the project's folder everywhere here.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def there(name):
    """The program as whoever runs the tests has built it."""
    return Path(os.environ.get("TIDEGATE_BIN_DIR") or TARGET / "debug").resolve() / name


def environment(settings=()):
    """What a node is started with. It would take TIDEGATE_BIN_DIR for a setting, and say that it is none."""
    return {name: value for name, value in {**os.environ, **dict(settings)}.items() if name != "TIDEGATE_BIN_DIR"}


def program(name, profile="dev", build=("--package", None)):
    """The program in TIDEGATE_BIN_DIR, or the one that Cargo makes of `build`, by default of the package `name`."""
    given = os.environ.get("TIDEGATE_BIN_DIR")
    if given:
        return Path(given).resolve() / name
    what = [name if word is None else word for word in build]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    subprocess.run(["cargo", "build", "--profile", profile, *what], cwd=ROOT, check=True, env=environment)
    return TARGET / ("debug" if profile == "dev" else profile) / name
