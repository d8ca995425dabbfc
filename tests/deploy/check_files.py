"""Checks each file of deploy/ by itself: whether it is well formed, and consistent with the others."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import programs
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = ROOT / "docker-compose.yml"
ALERT_TESTS = ["alerts_test.yml", "budgets_test.yml"]
WITH_NATS = ROOT / "deploy/nats/docker-compose.yml"
SHARED_SERVICES = ROOT / "deploy/services.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "tidegate.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
GRAFANA_COLUMNS = 24


def checks(binaries, folder):
    return [
        ("the compose file is well formed", compose_is_well_formed),
        ("the environment of the compose file is a configuration", lambda: environment_is_a_configuration(binaries)),
        ("the compose file with NATS is as good", lambda: nats_in_place_of_redis(binaries)),
        ("what both compose files have in common stands once", both_stacks_are_of_the_same_services),
        ("every service of the compose file may do what it needs and no more", services_are_confined),
        ("files over the compose file are well formed", overlays_are_well_formed),
        ("secrets are made once, and only their owner can look for them", lambda: secrets_are_made(folder)),
        ("a node is given the time that its drain takes", grace_is_above_the_drain),
        ("systemd takes its unit, and finds little that it could do less", lambda: unit_is_confined(binaries, folder)),
        ("dependencies have the same features, whichever packages are chosen", features_are_those_of_all),
        ("the image is given all that its build needs", lambda: image_has_all_its_build_needs(folder)),
        ("HAProxy takes its configuration", lambda: run("haproxy", "-c", "-q", "-f", DEPLOY / "haproxy/haproxy.cfg")),
        ("HAProxy's timeouts are above the heartbeat", timeouts_are_above_the_heartbeat),
        ("Prometheus takes its configuration", lambda: run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml")),
        ("alerts fire when they should and not otherwise", lambda: run("promtool", "test", "rules", *(DEPLOY / "prometheus" / name for name in ALERT_TESTS))),
        ("every alert is tested, and says what to do", alerts_have_a_runbook),
        ("the dashboard is well formed", dashboard_is_well_formed),
        ("dashboard and alerts ask for metrics that exist", metrics_exist),
    ]


def run(*command, timeout=60, **options):
    """Runs a program that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command[0]} ends with {done.returncode}: {(done.stderr + done.stdout).strip()}")
    return None


def composer():
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return None


def compose_is_well_formed(file=COMPOSE):
    command = composer()
    if command is None:
        return "not checked, for docker-compose is not installed"
    return run(*command, "-f", file, "config", "-q")


def merged(below, above):
    """Merges a service into the one that it extends, as compose does."""
    both = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(both.get(key), dict):
            both[key] = merged(both[key], value)
        elif isinstance(value, list) and isinstance(both.get(key), list):
            both[key] = both[key] + [one for one in value if one not in both[key]]
        else:
            both[key] = value
    return both


def resolved(file=COMPOSE):
    """Returns the contents of a compose file, with `extends` resolved."""
    compose = yaml.safe_load(file.read_text())
    for name, service in compose["services"].items():
        extended = service.pop("extends", None)
        if extended:
            base = yaml.safe_load((file.parent / extended["file"]).read_text())["services"][extended["service"]]
            assert "extends" not in base, f"{name} extends what extends something"
            # docker-compose 1.29 cannot extend a service with these keys.
            assert not {"depends_on", "networks", "links"} & set(base), f"{name} cannot extend that"
            compose["services"][name] = merged(base, service)
    return compose


def services():
    return resolved()["services"]


def both_stacks_are_of_the_same_services():
    """Settings that are the same with both brokers are written once."""
    own = {file: yaml.safe_load(file.read_text())["services"] for file in (COMPOSE, WITH_NATS)}
    for name in ("gateway", "publisher", "haproxy"):
        bases = {(file.parent / of[name]["extends"]["file"]).resolve() for file, of in own.items()}
        assert bases == {SHARED_SERVICES}, f"{name} extends {bases}"
        again = set(own[COMPOSE][name]) & set(own[WITH_NATS][name]) - {"extends", "environment", "secrets", "networks", "depends_on"}
        assert not again, f"{again} of {name} could stand in {SHARED_SERVICES.name}"
    environments = [of["gateway"]["environment"] for of in own.values()]
    twice = set.intersection(*map(set, environments)) - {"TIDEGATE_BROKER__KIND"}
    assert not twice, f"{twice} could stand in {SHARED_SERVICES.name}"
    one, other = (resolved(file)["services"]["gateway"] for file in own)
    return f"{len(one['environment'])} and {len(other['environment'])} variables, of which {len(set(one['environment']) & set(other['environment']))} are shared"


# Services that write to their container's file system.
WRITES = {"grafana"}


def services_are_confined(file=COMPOSE, broker="redis"):
    compose = resolved(file)
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], f"{name} has capabilities"
        assert service["security_opt"] == ["no-new-privileges:true"], f"{name} may gain privileges"
        assert service["read_only"] is not (name in WRITES), f"{name} writes where it should not"
        assert name == "loadtest" or all(key in service for key in ("mem_limit", "cpus", "pids_limit")), f"{name} has no limits"
        assert (broker in service["networks"]) == (name in {"gateway", broker}), f"{name} and the network of {broker}"
        image, tag = service["image"].split(":", 1)
        assert tag != "latest", f"{name} is of no version"
        assert not image.startswith("tidegate") or f":-{version}}}" in tag, f"{name} is not of version {version}"
        for variable, value in (service.get("environment") or {}).items():
            secret = re.search("PASSWORD|SECRET|KEY|TOKEN", variable) and name != "loadtest"
            assert not secret or str(value).startswith("/run/secrets/"), f"{variable} of {name} is no file"
    assert compose["networks"][broker]["internal"] is True, f"{broker} can be reached from outside"
    assert "ports" not in compose["services"][broker]
    trusted = compose["services"]["gateway"]["environment"]["TIDEGATE_HTTP__TRUSTED_PROXIES"]
    assert trusted == compose["services"]["haproxy"]["networks"]["front"]["ipv4_address"] + "/32", "more than HAProxy is trusted"
    assert not any("ulimits" in service for service in compose["services"].values()), "an engine with fewer descriptors would start nothing"
    for made in re.findall(r"^ARG VERSION=(.*)$", (DEPLOY / "Dockerfile").read_text(), re.M):
        assert made == version, f"the image says {made}"
    return f"{len(compose['services'])} services"


def nats_in_place_of_redis(binaries):
    compose_is_well_formed(WITH_NATS)
    services_are_confined(WITH_NATS, "nats")
    environment_is_a_configuration(binaries, WITH_NATS)
    theirs = gateway_environment(WITH_NATS)
    conf = WITH_NATS.parent / "nats.conf"
    assert theirs["TIDEGATE_BROKER__KIND"] == "nats" and "/nats.conf:ro" in WITH_NATS.read_text()
    if shutil.which("nats-server") is None:
        return "the server's settings not checked, for nats-server is not installed"
    # Quoted as by the container's shell: the token looks like a number.
    return run("nats-server", "-t", "-c", conf, env={**os.environ, "NATS_TOKEN": '"1e5"'})


def overlays_are_well_formed():
    known = set(services())
    overlays = sorted((DEPLOY / "compose").glob("*.yml"))
    assert overlays
    for overlay in overlays:
        changed = yaml.safe_load(overlay.read_text())["services"]
        assert known & set(changed), f"{overlay.name} changes nothing"
        if composer():
            run(*composer(), "-f", COMPOSE, "-f", overlay, "config", "-q")
    return ", ".join(overlay.stem for overlay in overlays)


def secrets_are_made(folder):
    """The script creates each secret that the compose files read."""
    read = [yaml.safe_load(file.read_text())["secrets"].values() for file in (COMPOSE, WITH_NATS)]
    wanted = {Path(secret["file"]).name for secrets in read for secret in secrets}
    shipped = {secret.name for secret in (DEPLOY / "secrets").iterdir()}
    assert shipped == wanted, f"{shipped} are shipped, {wanted} are read"
    place = folder / "secrets"
    run(DEPLOY / "make-secrets", place)
    made = {secret.name: secret.read_text() for secret in place.iterdir()}
    assert set(made) == wanted, set(made)
    assert len(set(made.values())) == len(made) and all(re.fullmatch("[0-9a-f]{64}\n", text) for text in made.values())
    assert place.stat().st_mode & 0o777 == 0o700, oct(place.stat().st_mode)
    run(DEPLOY / "make-secrets", place)
    assert made == {secret.name: secret.read_text() for secret in place.iterdir()}, "secrets in use were made anew"
    return f"{len(made)} secrets"


def gateway_environment(file=COMPOSE):
    """Returns the environment of the gateway in a compose file, with variables replaced by their defaults."""
    variables = resolved(file)["services"]["gateway"]["environment"]
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in variables.items()}


def environment_is_a_configuration(binaries, file=COMPOSE):
    variables = gateway_environment(file)
    assert len(variables) > 10, variables
    secrets = str(DEPLOY / "secrets")
    run(binaries["tidegate"], "check", env={name: value.replace("/run/secrets", secrets) for name, value in variables.items()})
    return f"{len(variables)} keys"


def grace_is_above_the_drain():
    variables = gateway_environment()
    drain = sum(int(variables[f"TIDEGATE_DRAIN__{key}_MS"]) for key in ("NOTICE", "GRACE", "LINGER"))
    grace = int(services()["gateway"]["stop_grace_period"].removesuffix("s")) * 1000
    # Two seconds for the node to retire in Redis (RETIRE_TIMEOUT), two for the runtime, three for traces.
    assert grace >= drain + 7000, f"{grace} ms are too short for a drain of {drain} ms"
    server = re.search(r"default-server .*inter (\d+)s .*fall (\d+)", (DEPLOY / "haproxy/haproxy.cfg").read_text())
    noticed = int(server.group(1)) * int(server.group(2)) * 1000
    notice = int(variables["TIDEGATE_DRAIN__NOTICE_MS"])
    assert notice > noticed, f"HAProxy needs {noticed} ms to notice and is given {notice}"
    return f"{grace} ms for {drain}"


# The exposure that systemd computes, from 0 (none) to 100. What remains is that the service opens sockets to everybody.
UNIT_EXPOSURE_MAX = 20


def unit_is_confined(binaries, folder):
    text = (DEPLOY / "systemd/tidegate.service").read_text()
    assert "/usr/local/bin/tidegate" in text
    # A copy with another path of the program; the file must have the unit's name.
    unit = folder / "tidegate.service"
    unit.write_text(text.replace("/usr/local/bin/tidegate", str(binaries["tidegate"])))
    run("systemd-analyze", "verify", "--man=no", unit)
    security = ["systemd-analyze", "security", "--offline=true", f"--threshold={UNIT_EXPOSURE_MAX}", unit]
    done = subprocess.run([str(part) for part in security], capture_output=True, text=True, timeout=60)
    exposure = re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert done.returncode == 0 and exposure, f"too much is allowed: {done.stdout[-400:]}{done.stderr}"
    stop = int(re.search(r"^TimeoutStopSec=(\d+)s$", text, re.M).group(1))
    documented = (ROOT / "docs/configuration.md").read_text()
    times = [int(re.search(rf"^\| `{key}` \| number \| `(\d+)`", documented.split("## `[drain]`")[1], re.M).group(1))
             for key in ("notice_ms", "grace_ms", "linger_ms")]  # fmt: skip
    assert stop * 1000 >= sum(times) + 9000, f"{stop} s are too short for a drain of {sum(times)} ms"
    environment = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.M))
    secrets = folder / "credentials"
    secrets.mkdir()
    for name in re.findall(r"^LoadCredential=(\w+):", text, re.M):
        (secrets / name).write_text("a secret that is long enough for every use of it\n")
    environment = {name: value.replace("%d", str(secrets)) for name, value in environment.items()}
    environment["TIDEGATE_CONFIG"] = str(DEPLOY / "systemd/tidegate.toml")
    run(binaries["tidegate"], "check", env=environment)
    return f"an exposure of {exposure.group(1)} of 10"


def features_are_those_of_all():
    """With other features, the packages of the image and of a release would have to be built a second time."""
    # Build and development dependencies count, because macros with other features are built separately.
    every = features("--workspace", "--edges", "normal,build,dev")
    chosen = features("--package", "tidegate", "--package", "tidegate-loadtest", "--edges", "normal,build")
    others = sorted(line for line in chosen - every if str(ROOT) not in line)
    assert not others, f"with other features than in the whole workspace: {', '.join(others)}"
    return f"{len(chosen)} crates"


def features(*chosen):
    """Returns the crates with their features, as lines of `cargo tree`."""
    command = ["cargo", "tree", "--locked", "--prefix", "none", "--no-dedupe", "--format", "{p} {f}", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def image_has_all_its_build_needs(folder):
    """Follows the Dockerfile in an empty folder, but checks the code instead of building it."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert not re.search(r"^# syntax=|--mount=|<<", dockerfile, re.M), "that needs BuildKit"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    build = folder / "image"
    build.mkdir()
    stage = re.search(r"^FROM \S+ AS build$(.*?)^FROM ", dockerfile, re.M | re.S).group(1).replace("\\\n", " ")
    builds = 0
    for instruction, rest in re.findall(r"^(COPY|RUN) (.*)$", stage, re.M):
        if instruction == "COPY":
            copy(rest.split(), sent, build)
            continue
        command, cargo, packages = rest.partition("&& cargo build --release --locked")
        assert cargo, f"what does {rest} build?"
        run("sh", "-c", command, cwd=build)
        resolve = f"cargo tree --offline --locked --edges normal,build {packages}"
        run("sh", "-c", resolve, cwd=build)
        builds += 1
    assert builds == 2, "dependencies by themselves, then all"
    # In the usual target folder, because the lints have already checked the dependencies there.
    check = f"cargo check --quiet --offline --locked {packages}"
    run("sh", "-c", check, cwd=build, env=os.environ | {"CARGO_TARGET_DIR": str(programs.TARGET)}, timeout=900)
    return packages.strip()


def copy(paths, sent, build):
    """Does a COPY, from the part of the project that .dockerignore admits."""
    *sources, to = paths
    for source in sources:
        parts = [source, *(str(above) for above in Path(source).parents)]
        assert any(part in sent for part in parts), f".dockerignore keeps {source} from the build"
        if (ROOT / source).is_dir():
            skip = shutil.ignore_patterns("target")
            shutil.copytree(ROOT / source, build / to, dirs_exist_ok=True, ignore=skip)
        else:
            (build / to).mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, build / to)


def timeouts_are_above_the_heartbeat():
    config = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    documented = (ROOT / "docs/configuration.md").read_text()
    ping = int(re.search(r"`ping_interval_ms` \| number \| `(\d+)`", documented).group(1)) / 1000
    tunnel = int(re.search(r"timeout tunnel (\d+)s", config).group(1))
    assert tunnel > 2 * ping, f"tunnels are cut after {tunnel} s, and pings are {ping} s apart"
    return f"{tunnel} s, and pings are {ping:.0f} s apart"


def dashboard_is_well_formed():
    dashboard = json.loads(DASHBOARD.read_text())
    # An imported dashboard asks for the data source with a variable; the id of a data source would be valid only in this stack.
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    source = variables["datasource"]
    assert source["type"] == "datasource" and source["query"] == "prometheus", source
    assert next(iter(variables)) == "datasource", "the variables after it ask it"
    sources = list(data_sources(dashboard))
    strangers = [found for found in sources if found != {"type": "prometheus", "uid": "${datasource}"}]
    assert sources and not strangers, f"not imported anywhere: {strangers}"
    assert not {"id", "__inputs"} & set(dashboard), "it would replace another one, or ask when it is provisioned"
    exemplars = [target for panel in dashboard["panels"] for target in panel.get("targets", []) if target.get("exemplar")]
    assert any("stage_seconds" in target["expr"] for target in exemplars), "no panel of stages shows exemplars"
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids), "two panels have the same id"
    taken = {}
    for panel in panels:
        where = panel["gridPos"]
        assert where["x"] + where["w"] <= GRAFANA_COLUMNS, f"{panel['title']} stands out on the right"
        for cell in ((x, y) for x in range(where["x"], where["x"] + where["w"]) for y in range(where["y"], where["y"] + where["h"])):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"] and panel["targets"], f"{panel['title']} has no description or nothing to show"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
    return f"{sum(panel['type'] != 'row' for panel in panels)} panels"


def data_sources(part):
    """Yields every data source named in a part of the dashboard."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "datasource":
                yield value
            else:
                yield from data_sources(value)
    elif isinstance(part, list):
        for value in part:
            yield from data_sources(value)


def dashboard_expressions():
    """Returns the title of each panel or annotation with its expression, with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"]]
    return [(title, expression.replace("$__rate_interval", "20s").replace("$node", ".*").replace("$namespace", ".*")) for title, expression in found]


def alert_expressions():
    text = ALERTS.read_text()
    return list(zip(re.findall(r"- alert: (\w+)", text), re.findall(r"^ +expr: (.*)$", text, re.M), strict=True))


def selected(expression):
    """Returns every metric in an expression with its label matchers, without those that need native histograms."""
    expression = re.sub(r"histogram_\w+\([^[]*tidegate_\w+(?<!_bucket)(\{[^}]*\})?\[\w+\]", "", expression)
    return [name + (labels or "") for name, labels in re.findall(r"\b((?:tidegate|haproxy)_\w+|up\b)(\{[^}]*\})?", expression)]


def alerts_have_a_runbook():
    names = [name for name, _ in alert_expressions()]
    pages = (ROOT / "docs/alerts.md").read_text()
    documented = re.findall(r"^## (\w+)$", pages, re.M)
    assert documented == names, f"docs/alerts.md has {documented}"
    runbooks = re.findall(r"^ +runbook: (.*)$", ALERTS.read_text(), re.M)
    assert runbooks == [f"docs/alerts.md#{name.lower()}" for name in names], runbooks
    tests = "".join((DEPLOY / "prometheus" / name).read_text() for name in ALERT_TESTS)
    for name in names:
        fires = re.search(rf'alertname: {name}\n +exp_alerts:|(ALERTS|labels: .){{alertname="{name}"', tests)
        assert fires, f"no test sees {name} fire"
    return f"{len(names)} alerts"


def metrics_exist():
    documented = (ROOT / "docs/metrics.md").read_text()
    kinds = dict(re.findall(r"^\| `(tidegate_\w+)` \| (\w+)", documented, re.M))
    used = set()
    for where, expression in dashboard_expressions() + alert_expressions():
        for name in re.findall(r"tidegate_\w+", expression):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            known = name in kinds and kinds[name] != "histogram" or kinds.get(base) == "histogram"
            assert known, f"{where} asks for {name}, which docs/metrics.md does not have"
            used.add(base if base in kinds else name)
    return f"{len(used)} of {len(kinds)} metrics are looked at"
