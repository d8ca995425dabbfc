"""Runs the load tester through a Stack's HAProxy while a test acts on the stack."""

import json
import re

from stack import API_KEY, PATIENCE_SECONDS, get, until

CLIENTS = 40
CHANNELS = 4
RATE = 40


def load(stack, seconds, act):
    """Returns the load tester's report. No publication may be lost, duplicated or reordered."""
    report = stack.folder / "report.json"
    report.unlink(missing_ok=True)
    tester = stack.start("loadtest", [
        stack.binaries["tidegate-loadtest"], "--quiet", "--url", f"ws://127.0.0.1:{stack.public}",
        "-n", CLIENTS, "--channels", CHANNELS, "--channel-prefix", "prices:load-", "-r", RATE, "-d", seconds,
        "--settle", "1", "--api-key", API_KEY, "--json", report, "--reconnect", "--reconnect-min-ms", "300",
        "--reconnect-max-ms", "1000",
    ])  # fmt: skip
    here = [address for address, process in stack.gateways.items() if process.poll() is None]
    before = delivered(stack, here)
    until("all clients are there", lambda: sum(map(stack.clients, here)) == CLIENTS)
    until("publications flow", lambda: delivered(stack, here) > before)
    act()
    tester.wait(seconds + PATIENCE_SECONDS)
    assert report.exists(), (stack.folder / "loadtest.log").read_text()
    found = json.loads(report.read_text())
    deliveries, connections = found["deliveries"], found["connections"]
    for count in ("lost", "missed_away", "duplicated", "reordered", "malformed"):
        assert deliveries[count] == 0, f"{count}: {deliveries[count]} ({connections})"
    assert connections["unrecovered"] == 0, connections
    return found


def delivered(stack, addresses):
    text = "".join(get(f"http://{address}:{stack.internal}/metrics")[1] for address in addresses)
    return sum(float(value) for value in re.findall(r"^tidegate_deliveries_out_total(?:\{.*?\})? (\S+)", text, re.M))


def came_back(report):
    connections = report["connections"]
    assert connections["recovered_publications"] > 0, f"nobody had anything to recover: {connections}"
    assert connections["reconnects"] >= CLIENTS // 4, f"too few clients were on that gateway: {connections}"
    return (
        f"{connections['reconnects']} came back and recovered {connections['recovered_publications']} publications, "
        f"0 of {report['publications']['confirmed']} lost"
    )
