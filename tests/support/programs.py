"""Finds the programs under test in the same places as tests/support/programs.sh."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Cargo resolves it relative to its working directory, which is always the project's folder here.
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def there(name):
    """Returns the path of a program that has already been built."""
    return Path(os.environ.get("TIDEGATE_BIN_DIR") or TARGET / "debug").resolve() / name


def environment(settings=()):
    """Returns a node's environment, without TIDEGATE_BIN_DIR, which the node would reject as an unknown setting."""
    return {name: value for name, value in {**os.environ, **dict(settings)}.items() if name != "TIDEGATE_BIN_DIR"}


def program(name, profile="dev", build=("--package", None)):
    """Returns the program in TIDEGATE_BIN_DIR, or builds it with Cargo from `build`, by default the package `name`."""
    given = os.environ.get("TIDEGATE_BIN_DIR")
    if given:
        return Path(given).resolve() / name
    what = [name if word is None else word for word in build]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    subprocess.run(["cargo", "build", "--profile", profile, *what], cwd=ROOT, check=True, env=environment)
    return TARGET / ("debug" if profile == "dev" else profile) / name
