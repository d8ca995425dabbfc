"""Removes from a server's replies what differs between runs."""

import base64
import json

from centrifuge.fossil import apply_delta

# Fields whose value each server chooses: only their presence is compared.
OWN = {"version": "<version>", "node": "<node>", "session": "<session>", "time": "<time>", "uid": "<uid>"}
# Seconds that have partly passed since the request; they are rounded.
SECONDS = {"ttl", "uptime"}


class Normal:
    def __init__(self, run):
        self.names = {run.unique: "@"}
        self.epochs = {}
        # The last full payload of each link, to which deltas apply.
        self.whole = {}
        for link, client in run.clients.items():
            self.names[client] = f"<client {link}>"

    def outcome(self, steps):
        return [{name: self.link(name, events) for name, events in sorted(step.items())} for step in steps]

    def link(self, name, events):
        """Keeps the order of replies, and that of pushes within each channel; no other order is promised."""
        if name == "api":
            return [self.value(answer) for answer in events]
        replies, pushes, closed = [], [], None
        for kind, what in events:
            if kind == "message":
                self.patch(name, what)
            if kind == "closed":
                closed = what
            elif "push" in what or ("id" not in what and "error" not in what):
                pushes.append(self.value(what))
            else:
                replies.append(self.value(what))
        pushes.sort(key=lambda push: (push.get("push") or push).get("channel", ""))
        parts = {"replies": replies, "pushes": pushes, "closed": closed}
        return {part: what for part, what in parts.items() if what}

    def patch(self, link, message):
        """Replaces deltas by their results, because different deltas can have the same result."""
        push = message.get("push") or message
        listed = (message.get("subscribe") or {}).get("publications") or []
        for publication in [*listed, push.get("pub")]:
            if publication is None or not isinstance(data := publication.get("data"), (str, bytes)):
                continue
            data = data.encode() if isinstance(data, str) else data
            if publication.get("delta") and link not in self.whole:
                # The delta applies to a payload from before the case.
                continue
            if publication.get("delta"):
                data = bytes(apply_delta(self.whole[link], data))
                publication["data"] = {"patched": data.decode()}
            self.whole[link] = data

    def value(self, value, key=""):
        if isinstance(value, dict):
            return {self.text(name): self.value(item, name) for name, item in sorted(value.items())}
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if key == "epoch" and value:
            return self.epochs.setdefault(value, f"<epoch {len(self.epochs) + 1}>")
        if key in OWN and value:
            return OWN[key]
        if key in SECONDS and isinstance(value, (int, float)):
            return "<few>" if value < 10 else round((value + 2) / 10) * 10
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            try:
                return self.value(json.loads(value))
            except ValueError:
                return {"bytes": base64.b64encode(value).decode()}
        return value

    def text(self, text):
        for name, what in self.names.items():
            text = text.replace(name, what)
        return text
