"""Tests which alerts fire when a node dies, crashes and restarts, hangs or leaves, and when HAProxy dies, as targets come and go."""

import json
import re
import signal
import urllib.parse

from stack import Stack, get, until

NODES = 3
# A node's lease, and the same time again until the others count it as lost, with a margin for a busy machine.
LOST_SECONDS = 60
# How often the others check, three seconds apart, before they count a node as lost, with a margin.
LOOKS = 7


def checks(binaries, folder):
    watched = Watched(binaries, folder / "alerts")
    return [
        ("three nodes that see each other raise no alert", watched.quiet),
        ("a node that leaves as it should raises none either", watched.leave),
        ("a container that is killed raises one, although its target is gone", watched.kill),
        ("a node that crashes and is started again raises one", watched.crash),
        ("a node that hangs raises two", watched.hang),
        ("an HAProxy that is killed raises one", watched.kill_haproxy),
        ("and so does the end of all nodes", watched.kill_all),
        ("everything of that ends too", watched.close),
    ]


class Watched:
    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder
        self.stack = None

    def quiet(self):
        self.stack = stack = Stack(self.binaries, self.folder, NODES)
        for index in range(NODES):
            stack.start_gateway(index)
        self.first, self.second, self.third = stack.addresses
        stack.wait_until_sent_to(NODES)
        stack.start_prometheus()
        until("all is scraped", lambda: self.ask('count(up == 1)') == NODES + 1)
        until("nodes see each other", lambda: self.ask("min(tidegate_nodes)") == NODES)
        until("no alert fires", lambda: not self.firing())
        names = {metric["node"] for metric in self.series("tidegate_ready")}
        assert len(names) == NODES, f"metrics are of the nodes {names}"

    def leave(self):
        self.end(self.third, signal.SIGTERM)
        until("the others know", lambda: self.ask("max(tidegate_nodes)") == NODES - 1)
        looked = self.looks()
        until("they have looked for long", lambda: self.looks() >= looked + LOOKS, LOST_SECONDS)
        assert self.ask("max(tidegate_nodes_lost_total)") == 0, "a node that left is taken for lost"
        fewer = {"TidegateFewerNodes"}
        until("there are fewer than expected, and that is all", lambda: self.firing() == fewer)
        self.stack.start_gateway(2)
        until("no alert fires", lambda: not self.firing())

    def kill(self):
        self.end(self.second, signal.SIGKILL)
        alerts = {"TidegateNodeLost", "TidegateFewerNodes"}
        until("the loss is told", lambda: alerts <= self.firing(), LOST_SECONDS)
        assert "TidegateNodeUnreachable" not in self.firing(), "its target is still there"
        lost = []

        def is_named():
            lost[:] = re.findall(r'"node":"([^"]+)"', "".join(re.findall(r".*another node is lost.*", self.stack.log(self.first))))
            return lost

        until("the log names it", is_named)
        assert lost == [f"node-{self.second}"], f"the log names {lost}"
        self.stack.start_gateway(1)
        until("all are there again", lambda: "TidegateFewerNodes" not in self.firing())
        return f"lost is {lost[0]}"

    def crash(self):
        """Kills a node that its engine restarts, so that its target stays."""
        before = self.ask("max(tidegate_nodes_lost_total)")
        for _ in range(3):
            started = self.ask(f'tidegate_process_start_time_seconds{{instance=~"{self.second}:.*"}}')
            self.stack.gateways[self.second].kill()
            self.stack.gateways[self.second].wait()
            self.stack.begin_gateway(self.second)
            until("it is scraped again", lambda: self.ask(f'tidegate_process_start_time_seconds{{instance=~"{self.second}:.*"}}') != started)
        until("it is told that it does so again and again", lambda: "TidegateRestarting" in self.firing())
        until("each life counts", lambda: self.ask("max(tidegate_nodes_lost_total)") == before + 3, LOST_SECONDS)

    def hang(self):
        process = self.stack.gateways[self.third]
        process.send_signal(signal.SIGSTOP)
        until("it does not answer", lambda: "TidegateNodeUnreachable" in self.firing())
        before = self.ask("max(tidegate_nodes_lost_total)")
        until("the others miss it", lambda: self.ask("max(tidegate_nodes_lost_total)") > before, LOST_SECONDS)
        process.send_signal(signal.SIGCONT)
        until("it is back", lambda: "TidegateNodeUnreachable" not in self.firing())
        until("the others see it", lambda: self.ask("min(tidegate_nodes)") == NODES)

    def kill_haproxy(self):
        # The worker process is a child of the master, and ends with it.
        self.stack.haproxy.kill()
        until("it is told", lambda: "TidegateBalancerDown" in self.firing())

    def kill_all(self):
        for address in list(self.stack.names.addresses):
            self.end(address, signal.SIGKILL)
        until("it is told", lambda: {"TidegateDown", "TidegateOneNodeLeft"} <= self.firing())

    def end(self, address, how):
        """Ends a node's process, and removes its container from discovery."""
        process = self.stack.gateways[address]
        process.send_signal(how)
        process.wait(60)
        self.stack.vanish(address)

    def looks(self):
        return self.ask('min(tidegate_broker_seconds_count{operation="nodes"})')

    def series(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        text = get(f"http://127.0.0.1:{self.stack.prometheus}/api/v1/query?{query}")[1]
        return [result["metric"] for result in json.loads(text)["data"]["result"]]

    def ask(self, expression):
        """Returns the value of an expression with exactly one result, or None."""
        query = urllib.parse.urlencode({"query": expression})
        text = get(f"http://127.0.0.1:{self.stack.prometheus}/api/v1/query?{query}")[1]
        found = json.loads(text)["data"]["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def firing(self):
        return {metric["alertname"] for metric in self.series('ALERTS{alertstate="firing"}')}

    def close(self):
        if self.stack:
            self.stack.close()
