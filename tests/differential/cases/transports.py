"""The other transports: Protobuf, event streams, HTTP streams, and unidirectional connections."""

from cases import command, connect, publish, publish_several, subscribe, subscription_token, table, user_token
from play import Api, Epoch, Http, Open, Send

LISTENING = {"token": user_token()}


def sequences():
    """Commands after a connect that every transport must support."""
    return {
        "connect": [],
        "subscribe": [subscribe("rec:@")],
        "subscribe where it may not": [subscribe("none:@")],
        "a private channel": [subscribe("$none:@", token=subscription_token("$none:@"))],
        "publish": [subscribe("pub:@"), command("publish", channel="pub:@", data={"a": 1})],
        "publication from the API": [subscribe("rec:@"), publish("rec:@", {"a": 1}, tags={"x": "y"})],
        "history": [
            subscribe("hist:@"),
            publish_several("hist:@", 3),
            command("history", channel="hist:@", limit=2, since={"offset": 1, "epoch": Epoch}),
        ],
        "position": [subscribe("hist:@"), publish_several("hist:@", 3), command("history", channel="hist:@")],
        "presence": [
            subscribe("presence:@"),
            command("presence", channel="presence:@"),
            command("presence_stats", 4, channel="presence:@"),
        ],
        "counts of nobody": [command("presence_stats", channel="presclient:@")],
        "recovery": [
            subscribe("rec:@"),
            command("unsubscribe", channel="rec:@"),
            publish_several("rec:@", 3),
            subscribe("rec:@", 4, recover=True, offset=1, epoch=Epoch),
            publish("rec:@", "live"),
        ],
        "delta": [
            subscribe("delta:@", delta="fossil"),
            publish("delta:@", {"n": 1, "text": "long " * 40}),
            publish("delta:@", {"n": 2, "text": "long " * 40}),
        ],
        "filter": [
            subscribe("tags:@", tf={"op": "or", "nodes": [{"key": "a", "cmp": "in", "vals": ["1", "2"]}]}),
            publish("tags:@", 1, tags={"a": "1"}),
            publish("tags:@", 2, tags={"a": "3"}),
        ],
        "joins": [subscribe("join:@"), Send("b", connect("bob@")), Send("b", subscribe("join:@"))],
        "rpc": [command("rpc", method="x", data=1)],
        "refresh": [command("refresh", token=user_token(exp=7200))],
        "sub_refresh": [
            subscribe("$none:@", token=subscription_token("$none:@")),
            command("sub_refresh", channel="$none:@", token=subscription_token("$none:@", exp=7200)),
        ],
        "two commands in one frame": [[subscribe("plain:@"), subscribe("plain:@", 3)]],
        "server's subscription": [Api("subscribe", {"user": "ann@", "channel": "plain:@"}), publish("plain:@", 1)],
        "server ends a subscription": [subscribe("plain:@"), Api("unsubscribe", {"user": "ann@", "channel": "plain:@"})],
        "server ends the connection": [Api("disconnect", {"user": "ann@"})],
        "server refreshes": [Api("refresh", {"user": "ann@", "expire_at": 4102444800})],
    }


def over(prefix, first, **options):
    return table(prefix, {name: [Open("a", frame=first, **options), *steps] for name, steps in sequences().items()})


PROTOBUF = {"protobuf": True, "subprotocols": ("centrifuge-protobuf",)}

CASES = [
    *over("protobuf", connect(), **PROTOBUF),
    *over("http_stream", connect(), transport="http_stream"),
    *over("sse", connect(), transport="sse", method="GET"),
    *table(
        "protobuf",
        {
            "by ?format": [Open("a", protobuf=True, query="?format=protobuf", frame=connect())],
            "by ?cf_protocol": [Open("a", protobuf=True, query="?cf_protocol=protobuf", frame=connect())],
            "over http_stream": [Open("a", "http_stream", protobuf=True, frame=connect()), Send("a", [subscribe("rec:@")])],
            "an empty frame": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"")],
            "an unasked pong": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"\x00")],
            "no message": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"\xff\xff\xff\xff\xff\xff")],
            "half a message": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"\x20\x08\x02")],
            "an id alone": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"\x02\x08\x02")],
            "an unknown field": [Open("a", frame=connect(), **PROTOBUF), Send("a", b"\x07\x08\x02\x6a\x00\xa2\x06\x00")],
            "a token that is none": [Open("a", frame={"id": 1, "connect": {"token": "no"}}, **PROTOBUF)],
            "an expired token": [Open("a", frame={"id": 1, "connect": {"token": user_token(exp=-10)}}, **PROTOBUF)],
            "a payload that is no JSON": [
                Open("a", frame=connect(), **PROTOBUF),
                Send("a", [subscribe("pub:@")]),
                Send("a", [command("publish", channel="pub:@", data=b"\x00\xff")]),
            ],
            "a payload from JSON to Protobuf": [
                Open("a", frame=connect(), **PROTOBUF),
                Send("b", connect("bob@")),
                Send("a", [subscribe("pub:@")]),
                Send("b", subscribe("pub:@")),
                Send("b", command("publish", channel="pub:@", data={"a": [1, "é"]})),
            ],
        },
    ),
    *table(
        "http_stream",
        {
            "without a body": [Open("a", "http_stream")],
            "with a body that is no JSON": [Open("a", "http_stream", frame="hello")],
            "by GET": [Http("GET", "/connection/http_stream", key=None)],
            "by OPTIONS": [Http("OPTIONS", "/connection/http_stream", key=None, headers={"Origin": "http://page.test"})],
            "from a page that may": [Open("a", "http_stream", frame=connect(), headers={"Origin": "http://page.test"})],
            "from a page that may not": [
                Open("a", "http_stream", frame=connect(), headers={"Origin": "http://other.test"})
            ],
            "a token that is none": [Open("a", "http_stream", frame={"id": 1, "connect": {"token": "no"}})],
            "an expired token": [Open("a", "http_stream", frame={"id": 1, "connect": {"token": user_token(exp=-10)}})],
            "without a token": [Open("a", "http_stream", frame={"id": 1, "connect": {}})],
            "subscribe first": [Open("a", "http_stream", frame=subscribe("plain:@"))],
            "connect and subscribe": [Open("a", "http_stream", frame=[connect(), subscribe("plain:@")])],
            "connect twice": [Open("a", "http_stream", frame=connect()), Send("a", [connect(id=2)])],
            "a command that is none": [Open("a", "http_stream", frame=connect()), Send("a", "hello")],
        },
    ),
    *table(
        "sse",
        {
            "by POST": [Open("a", "sse", frame=connect())],
            "by GET without a command": [Open("a", "sse", method="GET")],
            "with a command that is no JSON": [Open("a", "sse", method="GET", frame="hello")],
            "a token that is none": [Open("a", "sse", method="GET", frame={"id": 1, "connect": {"token": "no"}})],
            "an expired token": [
                Open("a", "sse", method="GET", frame={"id": 1, "connect": {"token": user_token(exp=-10)}})
            ],
            "from a page that may not": [
                Open("a", "sse", method="GET", frame=connect(), headers={"Origin": "http://other.test"})
            ],
            "by PUT": [Http("PUT", "/connection/sse", key=None)],
        },
    ),
    *table(
        "emulation",
        {
            "of an unknown node": [Http("POST", "/emulation", {"session": "x", "node": "y", "data": "{}"}, key=None)],
            "with an empty body": [Http("POST", "/emulation", "", key=None)],
            "with a body that is no JSON": [Http("POST", "/emulation", "hello", key=None)],
            "without a session": [Http("POST", "/emulation", {"node": "y", "data": "{}"}, key=None)],
            "by GET": [Http("GET", "/emulation", key=None)],
            "by OPTIONS": [Http("OPTIONS", "/emulation", key=None, headers={"Origin": "http://page.test"})],
            "from a page that may not": [
                Http("POST", "/emulation", {"session": "x", "node": "y"}, headers={"Origin": "http://other.test"}, key=None)
            ],
            "init": [Http("GET", "/connection/init", key=None)],
        },
    ),
    *table(
        "uni_websocket",
        {
            "connect": [Open("a", "uni_websocket", frame='{"token":"no"}')],
            "without a token": [Open("a", "uni_websocket", frame="{}")],
            "with subs": [
                Open("a", "uni_websocket"),
                Send("a", [{"token": user_token(channels=["plain:@"])}]),
                publish("plain:@", 1),
            ],
            "an expired token": [Open("a", "uni_websocket"), Send("a", [{"token": user_token(exp=-10)}])],
            "no JSON": [Open("a", "uni_websocket", frame="hello")],
            "what a client says later": [
                Open("a", "uni_websocket"),
                Send("a", [LISTENING]),
                Send("a", "hello"),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
                publish("plain:@", 1),
            ],
            "disconnect": [Open("a", "uni_websocket"), Send("a", [LISTENING]), Api("disconnect", {"user": "ann@"})],
            "unsubscribe": [
                Open("a", "uni_websocket"),
                Send("a", [{"token": user_token(channels=["plain:@"])}]),
                Api("unsubscribe", {"user": "ann@", "channel": "plain:@"}),
            ],
        },
    ),
    *table(
        "uni_sse",
        {
            "connect": [
                Open("a", "uni_sse", method="GET", frame=[{"token": user_token(channels=["plain:@"])}]),
                publish("plain:@", 1),
            ],
            "by POST": [Open("a", "uni_sse", frame=[{"token": user_token(channels=["plain:@"])}]), publish("plain:@", 1)],
            "a token that is none": [Open("a", "uni_sse", method="GET", frame=[{"token": "no"}])],
            "an expired token": [Open("a", "uni_sse", method="GET", frame=[{"token": user_token(exp=-10)}])],
            "without a token": [Open("a", "uni_sse", method="GET", frame="{}")],
            "without a command": [Open("a", "uni_sse", method="GET")],
            "disconnect": [Open("a", "uni_sse", method="GET", frame=[LISTENING]), Api("disconnect", {"user": "ann@"})],
        },
    ),
    *table(
        "uni_http_stream",
        {
            "connect": [
                Open("a", "uni_http_stream", frame=[{"token": user_token(channels=["plain:@"])}]),
                publish("plain:@", 1),
            ],
            "with recovery": [
                publish_several("rec:@", 3),
                Open(
                    "a",
                    "uni_http_stream",
                    frame=[
                        {
                            "token": user_token(channels=["rec:@"]),
                            "subs": {"rec:@": {"recover": True, "offset": 1, "epoch": Epoch}},
                        }
                    ],
                ),
            ],
            "a token that is none": [Open("a", "uni_http_stream", frame=[{"token": "no"}])],
            "an expired token": [Open("a", "uni_http_stream", frame=[{"token": user_token(exp=-10)}])],
            "no JSON": [Open("a", "uni_http_stream", frame="hello")],
            "by GET": [Http("GET", "/connection/uni_http_stream", key=None)],
            "disconnect": [Open("a", "uni_http_stream", frame=[LISTENING]), Api("disconnect", {"user": "ann@"})],
        },
    ),
    *table(
        "websocket",
        {
            "from a page that may": [Open("a", headers={"Origin": "http://page.test"}, frame=connect())],
            "from a page that may not": [Open("a", headers={"Origin": "http://other.test"}, frame=connect())],
            "with the subprotocol of JSON": [Open("a", subprotocols=("centrifuge-json",), frame=connect())],
            "with both subprotocols": [
                Open("a", subprotocols=("centrifuge-json", "centrifuge-protobuf"), frame=connect())
            ],
            "with a subprotocol that is unknown": [Open("a", subprotocols=("other",), frame=connect())],
            "without an upgrade": [Http("GET", "/connection/websocket", key=None)],
        },
    ),
]
