"""Python packages that these tests need, in an environment of their own below the target folder."""

import site
import subprocess
import sys
from pathlib import Path

import programs

NEEDED = Path(__file__).resolve().parent / "requirements.txt"
ENVIRONMENT = programs.TARGET / "venv-deploy"


def bring():
    """Installs the packages if they are missing, and lets this process import them."""
    installed = ENVIRONMENT / "installed.txt"
    if not installed.exists() or installed.read_text() != NEEDED.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        install = [ENVIRONMENT / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", NEEDED]
        subprocess.run(install, check=True)
        installed.write_text(NEEDED.read_text())
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site.addsitedir(str(ENVIRONMENT / "lib" / version / "site-packages"))


def program(name):
    """Returns the path of a program that one of the packages contains."""
    return ENVIRONMENT / "bin" / name
