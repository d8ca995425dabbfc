"""The two servers under comparison, with equal configurations from one table."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import programs  # noqa: E402

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 10

SECRET = "a secret of the tests, long enough to be one"
OLD_SECRET = "the secret before this one, long enough as well"
KEY = "a-key-of-the-tests"

STREAM = {"history_size": 10, "history_ttl": "300s"}
# Keys that subscribers set and remove, and that outlive every case.
WRITTEN = {"key_ttl": "300s", "allow_publish_for_subscriber": True, "allow_remove_for_subscriber": True}
CHANGES = {"stream_size": 10, "stream_ttl": "300s"}
OPEN = {"allow_subscribe_for_client": True}

# Namespaces with the option names of the reference, which `TIDEGATE` translates.
NAMESPACES = {
    "none": {},
    "plain": OPEN,
    "anon": {"allow_subscribe_for_anonymous": True, "allow_subscribe_for_client": True},
    "anonpub": {**OPEN, "allow_publish_for_subscriber": True, "allow_subscribe_for_anonymous": True, "allow_publish_for_anonymous": True},
    "pub": {**OPEN, "allow_publish_for_subscriber": True},
    "pubclient": {**OPEN, "allow_publish_for_client": True},
    "hist": {**OPEN, **STREAM, "allow_history_for_subscriber": True, "allow_publish_for_subscriber": True},
    "histclient": {**OPEN, **STREAM, "allow_history_for_client": True},
    "histno": {**OPEN, **STREAM},
    "rec": {
        **OPEN,
        **STREAM,
        "force_recovery": True,
        "allow_publish_for_subscriber": True,
        "allow_history_for_subscriber": True,
    },
    "small": {**OPEN, "history_size": 2, "history_ttl": "300s", "force_recovery": True},
    "pos": {**OPEN, **STREAM, "force_positioning": True},
    "ask": {**OPEN, **STREAM, "allow_recovery": True, "allow_positioning": True},
    "cache": {**OPEN, "history_size": 1, "history_ttl": "300s", "force_recovery": True, "force_recovery_mode": "cache"},
    "auto": {
        **OPEN,
        "history_size": 1,
        "history_ttl": "300s",
        "force_recovery": True,
        "force_recovery_mode": "cache",
        "auto_cache_recover": True,
    },
    "delta": {**OPEN, **STREAM, "force_recovery": True, "allowed_delta_types": ["fossil"], "delta_publish": True},
    "deltaask": {**OPEN, **STREAM, "force_recovery": True, "allowed_delta_types": ["fossil"]},
    "tags": {**OPEN, **STREAM, "force_recovery": True, "allow_tags_filter": True},
    "tagsplain": {**OPEN, "allow_tags_filter": True},
    "presence": {**OPEN, "presence": True, "allow_presence_for_subscriber": True},
    "presclient": {**OPEN, "presence": True, "allow_presence_for_client": True},
    "presno": {**OPEN, "presence": True},
    "join": {**OPEN, "presence": True, "join_leave": True, "force_push_join_leave": True},
    "joinask": {**OPEN, "presence": True, "join_leave": True, "allow_presence_for_subscriber": True},
    "user": {"allow_user_limited_channels": True},
    "own": {**STREAM, "force_recovery": True, "presence": True},
    "regex": {**OPEN, "channel_regex": "^[a-z]+[0-9]*$"},
    "json": {**OPEN, "allow_publish_for_subscriber": True, "publication_data_format": "json"},
    "object": {**OPEN, "allow_publish_for_subscriber": True, "publication_data_format": "json_object"},
    "brief": {**OPEN, "subscription_type": "map", "map": {"mode": "ephemeral", **WRITTEN}},
    "map": {**OPEN, "subscription_type": "map", "map": {"mode": "recoverable", **WRITTEN, **CHANGES}},
    "lasting": {**OPEN, "subscription_type": "map", "map": {"mode": "persistent", **CHANGES}},
    "maptags": {
        **OPEN,
        "subscription_type": "map",
        "allow_tags_filter": True,
        "map": {"mode": "recoverable", "key_ttl": "300s", **CHANGES},
    },
    "mapown": {
        **OPEN,
        "subscription_type": "map",
        "map": {"mode": "ephemeral", **WRITTEN, "client_key": "user_id"},
    },
    "all": {
        **OPEN,
        **STREAM,
        "force_recovery": True,
        "presence": True,
        "join_leave": True,
        "allow_publish_for_client": True,
        "allow_history_for_client": True,
        "allow_presence_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "allow_publish_for_anonymous": True,
        "allow_history_for_anonymous": True,
        "allow_presence_for_anonymous": True,
    },
}

# Tidegate's names of options, where they differ.
TIDEGATE = {
    "allow_subscribe_for_client": "allow_subscribe",
    "allow_subscribe_for_anonymous": "allow_subscribe_anonymous",
    "allow_publish_for_subscriber": "allow_publish",
    "allow_publish_for_anonymous": "allow_publish_anonymous",
    "allow_history_for_subscriber": "allow_history",
    "allow_presence_for_subscriber": "allow_presence",
    "allow_user_limited_channels": "allow_user_limited",
    "history_ttl": "history_ttl_s",
    "allow_remove_for_subscriber": "allow_remove",
    "key_ttl": "key_ttl_s",
    "stream_ttl": "stream_ttl_s",
}

# Servers with other global settings: client options of the reference, sections of Tidegate. Pings are far apart except
# where they are tested.
PROFILES = {
    "main": (
        {"token": {"hmac_previous_secret_key": OLD_SECRET}},
        {"auth": {"previous_hmac_secret": OLD_SECRET}},
    ),
    "anonymous": (
        {"allow_anonymous_connect_without_token": True},
        {"auth": {"allow_anonymous": True}},
    ),
    "insecure": ({"insecure": True}, {"auth": {"insecure": True}}),
    "limits": (
        {
            "channel_limit": 3,
            "stale_close_delay": "1s",
            "expired_close_delay": "1s",
            "expired_sub_close_delay": "1s",
            "ping_interval": "2s",
            "pong_timeout": "1s",
            "user_connection_limit": 2,
            "history_max_publication_limit": 3,
            "recovery_max_publication_limit": 3,
        },
        {
            "session": {
                "channels_max": 3,
                "connect_timeout_ms": 1000,
                "expired_close_delay_ms": 1000,
                "ping_interval_ms": 2000,
                "pong_timeout_ms": 1000,
                "history_limit_max": 3,
                "recovery_limit_max": 3,
            },
            "limits": {"connections_per_user_max": 2},
        },
    ),
    "personal": (
        {"subscribe_to_user_personal_channel": {"enabled": True, "personal_channel_namespace": "own", "single_connection": True}},
        {"session": {"personal_channel": True, "personal_channel_namespace": "own", "single_connection": True}},
    ),
    "claims": (
        {"token": {"audience": "tests", "issuer": "the tests", "user_id_claim": "user"}},
        {"auth": {"audience": "tests", "issuer": "the tests", "user_id_claim": "user"}},
    ),
}


def reference_config(profile, port):
    client = {
        "allowed_origins": ["http://page.test"],
        "ping_interval": "300s",
        "pong_timeout": "100s",
        **PROFILES[profile][0],
    }
    client["token"] = {"hmac_secret_key": SECRET, **client.get("token", {})}
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "log": {"level": "error"},
        "client": client,
        "channel": {
            "without_namespace": {**OPEN, **STREAM},
            "namespaces": [{"name": name, **options} for name, options in NAMESPACES.items()],
        },
        "http_api": {"key": KEY},
        "sse": {"enabled": True},
        "http_stream": {"enabled": True},
        "init": {"enabled": True},
        "uni_sse": {"enabled": True},
        "uni_http_stream": {"enabled": True},
        "uni_websocket": {"enabled": True},
    }


def tidegate_config(profile):
    sections = {
        "http": {"allowed_origins": ["http://page.test"]},
        "session": {"ping_interval_ms": 300_000, "pong_timeout_ms": 100_000},
        "auth": {"hmac_secret": SECRET},
        "api": {"keys": [KEY]},
        "drain": {"notice_ms": 0, "grace_ms": 100, "linger_ms": 500},
        "channels": options_here({**OPEN, **STREAM}),
    }
    for section, keys in PROFILES[profile][1].items():
        sections[section] = {**sections.get(section, {}), **keys}
    for name, options in NAMESPACES.items():
        sections[f"namespaces.{name}"] = options_here(options)
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {in_toml(value)}\n" for key, value in keys.items())
        for section, keys in sections.items()
    )


def options_here(options):
    here = {TIDEGATE.get(key, key): value for key, value in options.items()}
    for name, value in here.items():
        if isinstance(value, dict):
            here[name] = options_here(value)
        elif name.endswith("_ttl_s"):
            here[name] = int(value.removesuffix("s"))
    # The reference lets clients ask for joins and leaves wherever there are any; Tidegate has an option of its own for that.
    if here.get("join_leave") and not here.get("force_push_join_leave"):
        here["allow_join_leave"] = True
    return here


def in_toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {in_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


class Server:
    """A server of one kind and profile, on free ports."""

    def __init__(self, profile, reference=None):
        self.kind = "reference" if reference else "tidegate"
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        self.log = folder / "log"
        self.port = free_port()
        if reference:
            file = folder / "config.json"
            file.write_text(json.dumps(reference_config(profile, self.port)))
            command = [reference, "--config", file]
        else:
            file = folder / "gateway.toml"
            file.write_text(tidegate_config(profile))
            internal = f"127.0.0.1:{free_port()}"
            command = [programs.there("tidegate"), "serve", "--config", file]
            command += ["--listen", f"127.0.0.1:{self.port}", "--internal-listen", internal]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "CENTRIFUGO_"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.wait_until_listening()

    def wait_until_listening(self):
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"the {self.kind} ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"the {self.kind} does not listen after {START_SECONDS_MAX} s:\n{self.log.read_text()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM if self.kind == "tidegate" else signal.SIGKILL)
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
