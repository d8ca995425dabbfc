"""Checks the chart and the plain manifests: rendered by Helm's engine, compared with the schemas of Kubernetes and each other.

    WRITE=1 tests/deploy/run     regenerates deploy/kubernetes, which is made from the chart, and the chart's copy of the alerts
"""

import os
import re
import shutil
import subprocess

import helm_python as helm
import kubernetes_validate
import yaml
from check_files import ALERTS, DEPLOY, ROOT, run

CHART = DEPLOY / "helm" / "tidegate"
PLAIN = DEPLOY / "kubernetes"
# The oldest version that the chart supports, and the newest with schemas.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]
# Two seconds for the node to retire in Redis, two for answers, two for the runtime, three for traces.
LAST_WORDS_SECONDS = 9
OPERATORS = {"ServiceMonitor", "PrometheusRule"}

EVERYTHING = {
    "image": {"repository": "registry.example/tidegate", "tag": "0.1.0"},
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "TIDEGATE_TELEMETRY__TRACE_RATIO", "value": "0.1"}],
    "cluster": {"enabled": True, "nodesExpected": 3},
    "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "annotations": {"example/lb": "tcp"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "push.example.com", "tlsSecret": "push", "annotations": {"a/b": "80"}},
    "trustedProxies": ["10.1.0.0/16", "10.2.0.0/16"],
    "autoscaling": {"enabled": True, "connections": 10_000_000},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "egress": [{"ports": [{"port": 6379}], "to": [{"podSelector": {"matchLabels": {"app": "redis"}}}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "push"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "push", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "push", "operator": "Exists"}]}]}}},
    "priorityClassName": "important",
}  # fmt: skip
LITTLE = {
    "secrets": {"name": ""},
    "cluster": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
}


def checks(binaries, folder):
    return [
        ("Helm finds nothing wrong with the chart", lint),
        ("what the chart makes is what Kubernetes takes", valid),
        ("pods are given the time that their drain takes, and are asked the right questions", pods),
        ("what the chart gives a node is a configuration", lambda: configuration(binaries, folder)),
        ("everything of the chart selects what it is for", selects),
        ("values that cannot be are refused", refused),
        ("the plain manifests are what the chart makes", plain_is_rendered),
        ("the alerts of the chart are those of the compose file, without HAProxy's", lambda: alerts(folder)),
    ]


def render(values=None, names=None):
    with helm.Chart.load(str(CHART)) as chart:
        made = chart.render(values or {}, name="tidegate", namespace="default")
    files = {name.rsplit("/", 1)[-1]: text for name, text in made.items() if name.endswith(".yaml")}
    wanted = names or sorted(files)
    return [thing for name in wanted for thing in yaml.safe_load_all(files[name]) if thing]


def one(things, kind, name="tidegate"):
    found = [thing for thing in things if thing["kind"] == kind and thing["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def lint():
    found = helm.lint(str(CHART))
    # An icon would need an address on the web.
    messages = [message for message in found["messages"] if message["error"] != "icon is recommended"]
    assert not messages and not found["errors"], found
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    assert chart["version"] == chart["appVersion"] == version, f"the chart is not of version {version}"


def valid():
    count = 0
    for values in ({}, EVERYTHING, LITTLE):
        for thing in render(values):
            if thing["kind"] in OPERATORS:
                continue
            for version in VERSIONS:
                kubernetes_validate.validate(thing, version, strict=True)
            count += 1
    return f"{count} things, in {' and '.join(VERSIONS)}"


def pods():
    for values in ({}, EVERYTHING, {"drain": {"noticeMs": 1, "graceMs": 999, "lingerMs": 1}}):
        deployment = one(render(values), "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        drain = sum(int(variable["value"]) for variable in container["env"] if "_DRAIN__" in variable["name"])
        assert drain >= 1000, container["env"]
        grace = pod["terminationGracePeriodSeconds"]
        assert grace * 1000 >= drain + LAST_WORDS_SECONDS * 1000, f"{grace} s are too short for a drain of {drain} ms"
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        # A liveness probe on /readyz would kill every node when Redis is away.
        assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}, paths
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": 1, "maxUnavailable": 0}, rolling
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], security
        assert security["capabilities"] == {"drop": ["ALL"]} and pod["securityContext"]["runAsNonRoot"], security
        assert ("replicas" in deployment["spec"]) == (values is not EVERYTHING), "an autoscaler and a number of replicas"
        keys = [spread["topologyKey"] for spread in pod["topologySpreadConstraints"]]
        assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], keys
        default = deployment["spec"].get("replicas", 3)
        budget = one(render(values), "PodDisruptionBudget")["spec"]["maxUnavailable"]
        assert budget < default, "the budget lets all nodes go"
    return f"{grace} s for the shortest drain"


def configuration(binaries, folder):
    """The program accepts the configuration of the pod."""
    secrets = folder / "kubernetes-secrets"
    secrets.mkdir()
    for name in ("api_keys", "redis_password", "hmac_secret"):
        (secrets / name).write_text("a secret that is long enough for every use of it\n")
    for values in ({}, EVERYTHING, LITTLE):
        things = render(values)
        file = folder / "kubernetes.toml"
        file.write_text(one(things, "ConfigMap")["data"]["tidegate.toml"])
        variables = {"POD_IP": "10.0.0.7"}
        for variable in one(things, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]:
            value = variable.get("value", "tidegate-5d9c")
            value = value.replace("$(POD_IP)", variables["POD_IP"]).replace("/run/secrets/tidegate", str(secrets))
            if variable["name"] != "POD_IP":
                variables[variable["name"]] = value
        variables["TIDEGATE_CONFIG"] = str(file)
        run(binaries["tidegate"], "check", env=variables)


def selects():
    things = render(EVERYTHING)
    labels = one(things, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in one(things, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"]}

    def holds(selector, of):
        return selector and selector.items() <= of.items()

    for name in ("tidegate", "tidegate-internal"):
        service = one(things, "Service", name)["spec"]
        assert holds(service["selector"], labels), f"{name} selects nothing"
        assert {port["targetPort"] for port in service["ports"]} <= ports, service["ports"]
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert holds(one(things, kind)["spec"]["selector"]["matchLabels"], labels), f"{kind} selects nothing"
    policy = one(things, "NetworkPolicy")["spec"]
    assert holds(policy["podSelector"]["matchLabels"], labels)
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports, policy
    monitor = one(things, "ServiceMonitor")["spec"]
    internal = one(things, "Service", "tidegate-internal")
    assert holds(monitor["selector"]["matchLabels"], internal["metadata"]["labels"]), "nothing is scraped"
    assert not holds(monitor["selector"]["matchLabels"], one(things, "Service")["metadata"]["labels"]), "it is scraped twice"
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in internal["spec"]["ports"]}
    # The alerts select this job.
    assert internal["metadata"]["labels"][monitor["jobLabel"]] == "tidegate"
    scaler = one(things, "HorizontalPodAutoscaler")["spec"]
    assert [metric["type"] for metric in scaler["metrics"]] == ["Resource", "Pods"], scaler["metrics"]
    assert scaler["metrics"][1]["pods"]["target"]["averageValue"] == "10000000", "a large number is written in another way"
    backend = one(things, "Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "tidegate", "port": {"name": "clients"}}, backend


def refused():
    for values in (
        {"drains": {}},
        {"redis": {"url": "redis://:secret@redis:6379"}},
        {"drain": {"graceMs": "30s"}},
        {"autoscaling": {"enabled": True, "cpu": 0}},
        {"autoscaling": {"enabled": True, "minReplicas": 4, "maxReplicas": 3}},
        {"ingress": {"enabled": True, "tlsSecret": "push"}},
        {"service": {"type": "Balancer"}},
    ):
        try:
            render(values)
        except helm.HelmError:
            continue
        raise AssertionError(f"{values} are taken")


def plain_is_rendered():
    both = {"autoscaling": {"enabled": True, "connections": 10_000}}
    watched = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    base = ["serviceaccount.yaml", "configmap.yaml", "deployment.yaml", "service.yaml", "poddisruptionbudget.yaml", "networkpolicy.yaml"]
    for file, values, names in (
        ("tidegate.yaml", {}, base),
        ("autoscaling.yaml", both, ["horizontalpodautoscaler.yaml"]),
        ("monitoring.yaml", watched, ["servicemonitor.yaml", "prometheusrule.yaml"]),
    ):
        head = "# Made of the chart in deploy/helm by tests/deploy/check_kubernetes.py. Change it there.\n"
        text = head + "---\n".join(yaml.dump(without_helm(thing), Dumper=Dumper, sort_keys=False, width=120) for thing in render(values, names))
        made_of_chart(PLAIN / file, text)
    # If kubectl is installed, it also checks that the base is complete.
    if shutil.which("kubectl"):
        done = subprocess.run(["kubectl", "kustomize", PLAIN], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return f"kubectl makes {done.stdout.count('kind: ')} kinds of them"
    return "not put together by kubectl, which is not there"


class Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def without_helm(thing):
    """Removes the labels that name Helm as the manager."""
    for labels in (thing["metadata"]["labels"], thing.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})):
        labels.pop("helm.sh/chart", None)
        labels.pop("app.kubernetes.io/managed-by", None)
    return thing


def made_of_chart(file, text):
    if os.environ.get("WRITE"):
        file.write_text(text)
    assert file.exists() and file.read_text() == text, f"{file.relative_to(ROOT)} is not what the chart makes: WRITE=1 writes it anew"


def alerts(folder):
    made_of_chart(CHART / "alerts.yml", ALERTS.read_text())
    rules = one(render(EVERYTHING), "PrometheusRule")["spec"]
    all_of_them = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    expected = [rule for rule in all_of_them if "haproxy" not in rule["expr"]]
    assert [rule for group in rules["groups"] for rule in group["rules"]] == expected, "other alerts, or in other words"
    file = folder / "kubernetes-alerts.yml"
    file.write_text(yaml.safe_dump(rules))
    run("promtool", "check", "rules", file)
    return f"{len(expected)} of {len(all_of_them)}"
