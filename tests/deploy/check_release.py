"""Checks what scripts/release makes of the programs under test: the archive, checksums, components and manual pages."""

import hashlib
import json
import os
import platform
import re
import subprocess
import tarfile

from check_files import ROOT, run
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TARGET = f"{platform.machine()}-unknown-linux-gnu"
# The commands in the output of `--help`.
COMMANDS = re.compile(r"^  ([a-z]+) ", re.M)


def checks(binaries, folder):
    released = Released(binaries, folder / "release")
    return [
        ("a release has its programs, their manual and completions, and is the same each time", released.make),
        ("its checksums are right", released.checksums),
        ("it says what it is made of, as CycloneDX has it", released.made_of),
        ("a program that is not static is not released as one", released.refuse),
    ]


class Released:
    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder
        version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        self.name = f"tidegate-{version}-{TARGET}"

    def release(self, output, target=TARGET):
        programs = self.folder / "programs"
        programs.mkdir(parents=True, exist_ok=True)
        for name, program in self.binaries.items():
            if not (programs / name).exists():
                (programs / name).symlink_to(program)
        command = [ROOT / "scripts/release", "--programs", programs, "--target", target, "--output", output]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)

    def make(self):
        sums = []
        for number in range(2):
            output = self.folder / str(number)
            done = self.release(output)
            assert done.returncode == 0, done.stderr
            sums.append((output / "SHA256SUMS").read_text())
            assert not list(output.glob(".*")), "something is left behind"
        assert sums[0] == sums[1], "the second archive is another one"
        with tarfile.open(self.folder / "0" / f"{self.name}.tar.gz") as archive:
            members = archive.getmembers()
            archive.extractall(self.folder / "there", filter="data")
        assert all(member.uid == member.gid == 0 and member.mtime > 0 for member in members)
        root = self.folder / "there" / self.name
        program = root / "bin/tidegate"
        shown = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
        commands = [command for command in COMMANDS.findall(shown) if command != "help"]
        assert len(commands) > 7, shown
        for command in commands:
            page = root / f"man/man1/tidegate-{command}.1"
            assert page.exists(), f"{command} has no page"
        for file in ("README", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "systemd/tidegate.service", "man/man1/tidegate.1"):
            assert (root / file).stat().st_size > 0, file
        self.completes(root / "completions/tidegate.bash", commands)
        assert "needs glibc" in done.stdout, done.stdout
        return done.stdout.strip().split("needs ")[-1]

    def completes(self, script, commands):
        """Checks bash's completions after `tidegate `."""
        ask = f'source {script}; COMP_WORDS=(tidegate ""); COMP_CWORD=1; _tidegate tidegate "" tidegate; printf "%s\\n" "${{COMPREPLY[@]}}"'
        said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
        assert set(commands) <= set(said), f"{commands} are commands, {said} are offered"

    def checksums(self):
        output = self.folder / "0"
        run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=output)
        listed = {line.split()[1]: line.split()[0] for line in (output / "SHA256SUMS").read_text().splitlines()}
        there = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in output.iterdir() if file.name != "SHA256SUMS"}
        assert listed == there, f"{sorted(listed)} are listed, {sorted(there)} are there"
        assert len(there) == 2, sorted(there)

    def made_of(self):
        text = (self.folder / "0" / f"{self.name}.cdx.json").read_text()
        faults = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
        assert faults is None, f"it is no CycloneDX: {faults}"
        sbom = json.loads(text)
        components = {component["name"]: component for component in sbom["components"]}
        assert components["tokio"]["scope"] == "required" and len(components["tokio"]["hashes"][0]["content"]) == 64
        assert "proptest" not in components, "what only tests need is in it"
        own = {"tidegate", "tidegate-loadtest", "gateway-core", "shared"}
        without = [name for name, component in components.items() if "licenses" not in component or name not in own and "hashes" not in component]
        assert not without, f"without a licence or a checksum: {without}"
        known = {component["bom-ref"] for component in sbom["components"]} | {sbom["metadata"]["component"]["bom-ref"]}
        for needs in sbom["dependencies"]:
            assert {needs["ref"], *needs["dependsOn"]} <= known, needs
        assert len(sbom["dependencies"]) == len(known)
        return f"{len(components)} crates"

    def refuse(self):
        done = self.release(self.folder / "static", TARGET.replace("-gnu", "-musl"))
        assert done.returncode == 1 and "it is not static" in done.stderr, done.stderr
        done = self.release(self.folder / "static", "x86_64-pc-windows-msvc")
        assert done.returncode == 64, done.stderr
        missing = subprocess.run([ROOT / "scripts/release", "--output"], capture_output=True, text=True, env=os.environ)
        assert missing.returncode == 64 and "needs a value" in missing.stderr, missing.stderr
