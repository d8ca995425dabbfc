"""The server API."""

from cases import command, connect, publish_several, subscribe, table
from play import Api, Epoch, Http

TRANSPORT = {"X-Centrifugo-Error-Mode": "transport"}


def bare(method, body, **fields):
    return [Http("POST", f"/api/{method}", body, **fields)]


CASES = [
    *table(
        "API",
        {
            # Forms of the request.
            "without a key": bare("publish", {"channel": "plain:@", "data": 1}, key=None),
            "with a wrong key": bare("publish", {"channel": "plain:@", "data": 1}, key="wrong"),
            "with an empty key": bare("publish", {"channel": "plain:@", "data": 1}, key=""),
            "with a key as Authorization": bare(
                "info", {}, key=None, headers={"Authorization": "apikey a-key-of-the-tests"}
            ),
            "with a wrong key as Authorization": bare("info", {}, key=None, headers={"Authorization": "apikey wrong"}),
            "with a bearer token": bare("info", {}, key=None, headers={"Authorization": "Bearer a-key-of-the-tests"}),
            "with a key in the URL": [Http("POST", "/api/info?api_key=a-key-of-the-tests", {}, key=None)],
            "by GET": [Http("GET", "/api/info")],
            "by PUT": [Http("PUT", "/api/publish", {"channel": "plain:@", "data": 1})],
            "of an unknown method": bare("surprise", {}),
            "of an empty method": bare("", {}),
            "with a body that is no JSON": bare("publish", "hello"),
            "with an empty body": bare("publish", ""),
            "with half a JSON": bare("publish", '{"channel": "plain:@"'),
            "with a body that is a list": bare("publish", "[]"),
            "with a body that is null": bare("publish", "null"),
            "with unknown fields": bare("publish", {"channel": "plain:@", "data": 1, "surprise": 2}),
            "with a channel that is a number": bare("publish", {"channel": 5, "data": 1}),
            "info with an empty body": bare("info", ""),
            "with a content type of text": bare(
                "publish", {"channel": "plain:@", "data": 1}, headers={"Content-Type": "text/plain"}
            ),
            "errors as statuses, unknown namespace": bare("publish", {"channel": "unknown:@", "data": 1}, headers=TRANSPORT),
            "errors as statuses, no channel": bare("publish", {"data": 1}, headers=TRANSPORT),
            "errors as statuses, no history": bare("history", {"channel": "plain:@"}, headers=TRANSPORT),
            "errors as statuses, another epoch": [
                publish_several("rec:@", 2),
                *bare("history", {"channel": "rec:@", "limit": 5, "since": {"offset": 1, "epoch": "x"}}, headers=TRANSPORT),
            ],
            "errors as statuses, rpc": bare("rpc", {"method": "x"}, headers=TRANSPORT),
            "errors as statuses, nothing wrong": bare("publish", {"channel": "plain:@", "data": 1}, headers=TRANSPORT),
            # The older form.
            "older form, publish": [Http("POST", "/api", {"method": "publish", "params": {"channel": "hist:@", "data": 1}})],
            "older form, unknown method": [Http("POST", "/api", {"method": "surprise", "params": {}})],
            "older form, without params": [Http("POST", "/api", {"method": "info"})],
            "older form, without a method": [Http("POST", "/api", {"params": {}})],
            "older form, two lines": [
                Http(
                    "POST",
                    "/api",
                    '{"method":"publish","params":{"channel":"hist:@","data":1}}\n'
                    '{"method":"history","params":{"channel":"hist:@","limit":1}}',
                )
            ],
            "older form, without a key": [Http("POST", "/api", {"method": "info"}, key=None)],
            "older form, no JSON": [Http("POST", "/api", "hello")],
            "older form, refused": [
                Http("POST", "/api", {"method": "publish", "params": {"channel": "unknown:@", "data": 1}})
            ],
            # publish
            "publish": [Api("publish", {"channel": "plain:@", "data": {"a": 1}})],
            "publish into history": [
                Api("publish", {"channel": "hist:@", "data": 1}),
                Api("publish", {"channel": "hist:@", "data": 2}),
            ],
            "publish without a channel": [Api("publish", {"data": 1})],
            "publish to an empty channel": [Api("publish", {"channel": "", "data": 1})],
            "publish without data": [Api("publish", {"channel": "plain:@"})],
            "publish null": [Api("publish", {"channel": "plain:@", "data": None})],
            "publish an empty text": [Api("publish", {"channel": "plain:@", "data": ""})],
            "publish to an unknown namespace": [Api("publish", {"channel": "unknown:@", "data": 1})],
            "publish to a private channel": [Api("publish", {"channel": "$none:@", "data": 1})],
            "publish to a channel with letters beyond ASCII": [Api("publish", {"channel": "plain:é@", "data": 1})],
            "publish to a channel of 300 bytes": [Api("publish", {"channel": "plain:" + "x" * 300, "data": 1})],
            "publish without history": [
                Api("publish", {"channel": "hist:@", "data": 1, "skip_history": True}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish with tags": [
                Api("publish", {"channel": "hist:@", "data": 1, "tags": {"a": "b"}}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish with tags that are numbers": [Api("publish", {"channel": "hist:@", "data": 1, "tags": {"a": 1}})],
            "publish with b64data": [
                Api("publish", {"channel": "hist:@", "b64data": "eyJhIjoxfQ=="}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish with b64data that is none": [Api("publish", {"channel": "hist:@", "b64data": "%%%"})],
            "publish with data and b64data": [
                Api("publish", {"channel": "hist:@", "data": 1, "b64data": "eyJhIjoxfQ=="}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish twice with a key": [
                Api("publish", {"channel": "hist:@", "data": 1, "idempotency_key": "k"}),
                Api("publish", {"channel": "hist:@", "data": 2, "idempotency_key": "k"}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish with versions": [
                Api("publish", {"channel": "hist:@", "data": 1, "version": 5}),
                Api("publish", {"channel": "hist:@", "data": 2, "version": 4}),
                Api("publish", {"channel": "hist:@", "data": 3, "version": 6}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish with versions of two epochs": [
                Api("publish", {"channel": "hist:@", "data": 1, "version": 5, "version_epoch": "a"}),
                Api("publish", {"channel": "hist:@", "data": 2, "version": 4, "version_epoch": "b"}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "publish what is no object where one is asked for": [Api("publish", {"channel": "object:@", "data": [1]})],
            # broadcast
            "broadcast": [Api("broadcast", {"channels": ["plain:@1", "hist:@2"], "data": 1})],
            "broadcast to an unknown namespace, too": [Api("broadcast", {"channels": ["plain:@", "unknown:@"], "data": 1})],
            "broadcast to no channel": [Api("broadcast", {"channels": [], "data": 1})],
            "broadcast without channels": [Api("broadcast", {"data": 1})],
            "broadcast to an empty channel": [Api("broadcast", {"channels": [""], "data": 1})],
            "broadcast without data": [Api("broadcast", {"channels": ["plain:@"]})],
            "broadcast with a key": [
                Api("broadcast", {"channels": ["hist:@"], "data": 1, "idempotency_key": "k"}),
                Api("broadcast", {"channels": ["hist:@"], "data": 1, "idempotency_key": "k"}),
            ],
            # presence
            "presence": [connect(), subscribe("presence:@"), Api("presence", {"channel": "presence:@"})],
            "presence of nobody": [Api("presence", {"channel": "presence:@"})],
            "presence where none is kept": [Api("presence", {"channel": "plain:@"})],
            "presence of an unknown namespace": [Api("presence", {"channel": "unknown:@"})],
            "presence without a channel": [Api("presence", {})],
            "presence_stats": [connect(), subscribe("presence:@"), Api("presence_stats", {"channel": "presence:@"})],
            "presence_stats of nobody": [Api("presence_stats", {"channel": "presence:@"})],
            "presence_stats where none is kept": [Api("presence_stats", {"channel": "plain:@"})],
            "presence_stats without a channel": [Api("presence_stats", {})],
            # history
            "history": [publish_several("hist:@", 3), Api("history", {"channel": "hist:@", "limit": 2})],
            "history, position": [publish_several("hist:@", 3), Api("history", {"channel": "hist:@"})],
            "history, all": [publish_several("hist:@", 3), Api("history", {"channel": "hist:@", "limit": -1})],
            "history, newest first": [
                publish_several("hist:@", 3),
                Api("history", {"channel": "hist:@", "limit": 2, "reverse": True}),
            ],
            "history since a position": [
                publish_several("hist:@", 3),
                Api("history", {"channel": "hist:@", "limit": -1, "since": {"offset": 1, "epoch": Epoch}}),
            ],
            "history since another epoch": [
                publish_several("hist:@", 3),
                Api("history", {"channel": "hist:@", "limit": -1, "since": {"offset": 1, "epoch": "x"}}),
            ],
            "history of an empty channel": [Api("history", {"channel": "hist:@", "limit": 5})],
            "history where none is kept": [Api("history", {"channel": "plain:@", "limit": 5})],
            "history without a channel": [Api("history", {"limit": 5})],
            "history of an unknown namespace": [Api("history", {"channel": "unknown:@"})],
            "history_remove": [
                publish_several("hist:@", 3),
                Api("history_remove", {"channel": "hist:@"}),
                Api("history", {"channel": "hist:@", "limit": 5}),
            ],
            "history_remove where none is kept": [Api("history_remove", {"channel": "plain:@"})],
            "history_remove without a channel": [Api("history_remove", {})],
            # Clients.
            "subscribe of nobody": [Api("subscribe", {"user": "nobody@", "channel": "plain:@"})],
            "subscribe without a channel": [Api("subscribe", {"user": "nobody@"})],
            "subscribe without a user": [Api("subscribe", {"channel": "plain:@"})],
            "subscribe to an unknown namespace": [Api("subscribe", {"user": "nobody@", "channel": "unknown:@"})],
            "unsubscribe of nobody": [Api("unsubscribe", {"user": "nobody@", "channel": "plain:@"})],
            "unsubscribe without a user": [Api("unsubscribe", {"channel": "plain:@"})],
            "unsubscribe from an unknown namespace": [Api("unsubscribe", {"user": "nobody@", "channel": "unknown:@"})],
            "disconnect of nobody": [Api("disconnect", {"user": "nobody@"})],
            "disconnect without a user": [Api("disconnect", {})],
            "disconnect with a code of 5": [Api("disconnect", {"user": "nobody@", "disconnect": {"code": 5}})],
            "refresh of nobody": [Api("refresh", {"user": "nobody@", "expire_at": 4102444800})],
            "refresh without a user": [Api("refresh", {"expire_at": 4102444800})],
            # The rest.
            "channels": [connect(), subscribe("plain:only@"), Api("channels", {"pattern": "plain:only@*"})],
            "channels that are not there": [Api("channels", {"pattern": "nothing@*"})],
            "rpc": [Api("rpc", {"method": "x", "params": {}})],
            "rpc without a method": [Api("rpc", {})],
            "batch": [
                Api(
                    "batch",
                    {
                        "commands": [
                            {"publish": {"channel": "hist:@", "data": 1}},
                            {"history": {"channel": "hist:@", "limit": 1}},
                            {"publish": {"channel": "unknown:@", "data": 1}},
                            {"presence": {"channel": "presence:@"}},
                        ]
                    },
                )
            ],
            "batch of nothing": [Api("batch", {"commands": []})],
            "batch without commands": [Api("batch", {})],
            "batch, parallel": [
                Api("batch", {"parallel": True, "commands": [{"publish": {"channel": "plain:@", "data": n}} for n in range(3)]})
            ],
            "batch with an unknown command": [Api("batch", {"commands": [{"surprise": {}}]})],
            "batch with an empty command": [Api("batch", {"commands": [{}]})],
        },
    )
]
