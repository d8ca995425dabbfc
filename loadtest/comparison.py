"""Comparisons of servers: figures of every server over all rounds, as medians and as ratios to the first.

compare/run writes comparisons, and plot reads them.
"""

import json
from statistics import median


def of_server(key, scale=1):
    def figure(report):
        value = (report["server"] or {}).get(key)
        return None if value is None else value * scale

    return figure


def of_deliveries(pick):
    return lambda report: pick(report) if report["deliveries"]["received"] else None


def deliveries_per_cpu_second(report):
    seconds = of_server("seconds_per_million")(report)
    return 1e6 / seconds if seconds else None


CPU_PER_MILLION = "cpu_seconds_per_million"

# Key, label, and how to find the figure in a report of one run. Lower is better, except for figures per second.
FIGURES = [
    (CPU_PER_MILLION, "CPU s per million deliveries", of_server("seconds_per_million")),
    ("deliveries_per_second", "Deliveries a second", of_deliveries(lambda one: one["deliveries"]["per_second"])),
    ("deliveries_per_cpu_second", "Deliveries a CPU second", deliveries_per_cpu_second),
    ("latency_p50_ms", "Latency p50, ms", of_deliveries(lambda one: one["deliveries"]["latency"]["p50"])),
    ("latency_p99_ms", "Latency p99, ms", of_deliveries(lambda one: one["deliveries"]["latency"]["p99"])),
    ("latency_p999_ms", "Latency p99.9, ms", of_deliveries(lambda one: one["deliveries"]["latency"]["p999"])),
    (
        "publish_answer_p50_ms",
        "Time to a publisher's answer p50, ms",
        of_deliveries(lambda one: one["publications"]["answered"]["p50"]),
    ),
    ("resident_bytes_per_connection", "Memory (RSS) per connection, bytes", of_server("resident_bytes_per_connection")),
    (
        "proportional_bytes_per_connection",
        "Memory (PSS) per connection, bytes",
        of_server("proportional_bytes_per_connection"),
    ),
    ("connect_micros", "CPU per connection opened, µs", of_server("connect_micros")),
    ("idle_cpu_percent", "CPU while connections are only held, % of a core", of_server("idle_cpu_percent")),
    ("load_tester_cores", "Cores that the load tester took", lambda report: report["load_tester"]["cores"]),
]
LABELS = {key: label for key, label, _ in FIGURES}

# Figures that should be 0, and where they are in a report of one run.
FAULTS = {
    "lost": ("deliveries", "lost"),
    "duplicated": ("deliveries", "duplicated"),
    "reordered": ("deliveries", "reordered"),
    "connections_failed": ("connections", "failed"),
    "publications_failed": ("publications", "failed"),
    "disconnects": ("connections", "disconnects"),
}


def ratios(values, first):
    """Returns the ratios of these figures to those of the first server, round by round.

    >>> ratios([3.0, 4.0, 24.0], [2.0, 4.0, 8.0])
    {'median': 1.5, 'min': 1.0, 'max': 3.0}

    There is no ratio without both figures, or if the first server's figure is 0.

    >>> ratios([None, 1.0], [1.0, 0.0])
    >>> ratios([1.0], [])
    """
    pairs = [(own, other) for own, other in zip(values, first) if own is not None and other and own >= 0]
    each = [own / other for own, other in pairs]
    return {"median": median(each), "min": min(each), "max": max(each)} if each else None


def compare(names, turns):
    """Returns every server's figures and faults. A turn is {"server": its index in names, "round": from 0, "report": …}."""

    def reports(server):
        return [turn["report"] for turn in turns if turn["server"] == server]

    servers = []
    for server, name in enumerate(names):
        figures = []
        for key, label, pick in FIGURES:
            values, first = ([pick(report) for report in reports(place)] for place in (server, 0))
            known = [value for value in values if value is not None]
            figure = {"key": key, "label": label, "median": median(known) if known else None}
            figures.append({**figure, "values": values, "ratio": ratios(values, first)})
        faults = {
            name: sum(report[part][field] for report in reports(server)) for name, (part, field) in FAULTS.items()
        }
        servers.append({"name": name, "rounds": len(reports(server)), "figures": figures, **faults})
    return servers


def figure(server, key):
    return next((one for one in server["figures"] if one["key"] == key), None)


def read(path):
    """Reads a comparison from a file, or the report of one run as a comparison of one server."""
    found = json.loads(path.read_text())
    if "turns" in found:
        return found
    turns = [{"server": 0, "round": 0, "report": found}]
    return {"title": found["title"], "servers": compare([found["title"]], turns), "turns": turns}


def number(value):
    """Formats a number with separators between thousands and only significant digits.

    >>> [number(value) for value in (7.0, 1234567.8, 123.456, 12.345, 0.01234)]
    ['7', '1,234,568', '123.5', '12.35', '0.012']
    """
    digits = 0 if value == int(value) or abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
