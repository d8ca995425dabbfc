"""Actions of the server: server-side subscriptions, unsubscribes, disconnects, refreshes."""

from cases import command, connect, publish, publish_several, subscribe, table, user_token
from play import Api, Client, Epoch, Open, Send, Session, Token


def with_claims(**claims):
    return {"id": 1, "connect": {"token": user_token(**claims)}}


CASES = [
    *table(
        "server's subscription",
        {
            "by channels of a token": [with_claims(channels=["plain:@"]), publish("plain:@", 1)],
            "to two channels": [with_claims(channels=["plain:@1", "plain:@2"]), publish("plain:@2", 1)],
            "by subs of a token": [with_claims(subs={"plain:@": {}}), publish("plain:@", 1)],
            "with data": [with_claims(subs={"plain:@": {"data": {"a": 1}}})],
            "with info, seen in presence": [
                with_claims(subs={"presence:@": {"info": {"label": "x"}}}),
                command("presence", channel="presence:@"),
            ],
            "by subs and channels": [with_claims(subs={"plain:@1": {}}, channels=["plain:@2"])],
            "to a private channel": [with_claims(channels=["$none:@"]), publish("$none:@", 1)],
            "to a channel that allows nothing": [with_claims(channels=["none:@"]), publish("none:@", 1)],
            "to an unknown namespace": [with_claims(channels=["unknown:@"])],
            "to another user's channel": [with_claims(channels=["user:@#bob@"])],
            "to no channel": [with_claims(channels=[])],
            "to an empty channel": [with_claims(channels=[""])],
            "to a channel twice": [with_claims(channels=["plain:@", "plain:@"])],
            "by channels that are no list": [with_claims(channels="plain:@")],
            "with history": [publish_several("rec:@", 2), with_claims(channels=["rec:@"])],
            "with positions": [with_claims(channels=["pos:@"]), publish("pos:@", 1)],
            "is recovered": [
                publish_several("rec:@", 3),
                {
                    "id": 1,
                    "connect": {
                        "token": user_token(channels=["rec:@"]),
                        "subs": {"rec:@": {"recover": True, "offset": 1, "epoch": Epoch}},
                    },
                },
                publish("rec:@", "live"),
            ],
            "is not recovered": [
                publish_several("rec:@", 3),
                {
                    "id": 1,
                    "connect": {
                        "token": user_token(channels=["rec:@"]),
                        "subs": {"rec:@": {"recover": True, "offset": 1, "epoch": "other"}},
                    },
                },
            ],
            "with the newest alone": [publish_several("auto:@", 3), with_claims(channels=["auto:@"])],
            "overrides recovery": [with_claims(subs={"histno:@": {"override": {"force_recovery": {"value": True}}}})],
            "overrides presence": [
                with_claims(subs={"pub:@": {"override": {"presence": {"value": True}}}}),
                Api("presence", {"channel": "pub:@"}),
            ],
            "and the client's own to the same channel": [with_claims(channels=["plain:@"]), subscribe("plain:@")],
            "lets it publish": [with_claims(channels=["pub:@"]), command("publish", channel="pub:@", data=1)],
            "with joins": [
                with_claims(channels=["join:@"]),
                Send("b", connect("bob@")),
                Send("b", subscribe("join:@")),
            ],
        },
    ),
    *table(
        "personal channel",
        {
            "is there": [connect(), publish("own:#ann@", 1)],
            "of an anonymous client": [{"id": 1, "connect": {"token": Token({"sub": ""})}}],
            "and other channels": [with_claims(channels=["plain:@"])],
            "another connection of the user closes it": [connect(), Send("b", connect()), publish("own:#ann@", 1)],
            "is recovered": [
                publish_several("own:#ann@", 2),
                connect(subs={"own:#ann@": {"recover": True, "offset": 1, "epoch": Epoch}}),
            ],
        },
        "personal",
    ),
    *table(
        "served",
        {
            "subscribe": [
                connect(),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
                publish("plain:@", 1),
            ],
            "subscribe with history": [
                connect(),
                publish_several("rec:@", 2),
                Api("subscribe", {"user": "ann@", "channel": "rec:@"}),
                publish("rec:@", "live"),
            ],
            "subscribe with data": [connect(), Api("subscribe", {"user": "ann@", "channel": "plain:@", "data": {"a": 1}})],
            "subscribe with recover_since": [
                connect(),
                publish_several("rec:@", 3),
                Api("subscribe", {"user": "ann@", "channel": "rec:@", "recover_since": {"offset": 1, "epoch": Epoch}}),
            ],
            "subscribe of one client": [
                connect(),
                Send("b", connect()),
                Api("subscribe", {"user": "ann@", "client": Client("b"), "channel": "plain:@"}),
                publish("plain:@", 1),
            ],
            "subscribe twice": [
                connect(),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
            ],
            "subscribe of one that is subscribed": [
                connect(),
                subscribe("plain:@"),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
            ],
            "subscribe with info, seen in presence": [
                connect(),
                Api("subscribe", {"user": "ann@", "channel": "presence:@", "info": {"label": "x"}}),
                Api("presence", {"channel": "presence:@"}),
            ],
            "subscribe, and the client unsubscribes": [
                connect(),
                Api("subscribe", {"user": "ann@", "channel": "plain:@"}),
                command("unsubscribe", channel="plain:@"),
                publish("plain:@", 1),
            ],
            "unsubscribe of a user": [
                connect(),
                subscribe("plain:@"),
                Api("unsubscribe", {"user": "ann@", "channel": "plain:@"}),
                publish("plain:@", 1),
            ],
            "unsubscribe of a client": [
                connect(),
                Send("b", connect()),
                subscribe("plain:@"),
                Send("b", subscribe("plain:@")),
                Api("unsubscribe", {"user": "ann@", "client": Client("a"), "channel": "plain:@"}),
                publish("plain:@", 1),
            ],
            "unsubscribe of a user from all channels": [
                connect(),
                subscribe("plain:@1"),
                subscribe("plain:@2", 3),
                Api("unsubscribe", {"user": "ann@", "channel": ""}),
            ],
            "unsubscribe of a server's subscription": [
                with_claims(channels=["plain:@"]),
                Api("unsubscribe", {"user": "ann@", "channel": "plain:@"}),
            ],
            "unsubscribe of one that is not subscribed": [
                connect(),
                Api("unsubscribe", {"user": "ann@", "channel": "plain:@"}),
            ],
            "disconnect of a user": [connect(), Send("b", connect()), Api("disconnect", {"user": "ann@"})],
            "disconnect of a client": [
                connect(),
                Send("b", connect()),
                Api("disconnect", {"user": "ann@", "client": Client("a")}),
            ],
            "disconnect but for a client": [
                connect(),
                Send("b", connect()),
                Api("disconnect", {"user": "ann@", "whitelist": [Client("a")]}),
            ],
            "disconnect of a session": [
                Open("a", "http_stream", frame=connect()),
                Open("b", "http_stream", frame=connect()),
                Api("disconnect", {"user": "ann@", "session": Session("b")}),
                Send("a", [command("rpc", 2, method="x")]),
            ],
            "disconnect of a session that is another user's": [
                Open("a", "http_stream", frame=connect()),
                Open("b", "http_stream", frame=connect("bob@")),
                Api("disconnect", {"user": "ann@", "session": Session("b")}),
                Send("b", [command("rpc", 2, method="x")]),
            ],
            "subscribe and unsubscribe of a session": [
                Open("a", "sse", method="GET", frame=connect()),
                Open("b", "sse", method="GET", frame=connect()),
                Api("subscribe", {"user": "ann@", "session": Session("b"), "channel": "plain:@"}),
                publish("plain:@", 1),
                Api("unsubscribe", {"user": "ann@", "session": Session("b"), "channel": "plain:@"}),
                publish("plain:@", 2),
            ],
            "disconnect with a code": [
                connect(),
                Api("disconnect", {"user": "ann@", "disconnect": {"code": 4500, "reason": "enough"}}),
            ],
            "disconnect with a code to come back": [
                connect(),
                Api("disconnect", {"user": "ann@", "disconnect": {"code": 4000, "reason": "move"}}),
            ],
            "refresh": [
                connect(),
                Api("refresh", {"user": "ann@", "expire_at": 4102444800}),
            ],
            "refresh that expires": [connect(), Api("refresh", {"user": "ann@", "expired": True})],
            "refresh to the past": [connect(), Api("refresh", {"user": "ann@", "expire_at": 1000})],
            "refresh to no expiry": [connect(), Api("refresh", {"user": "ann@", "expire_at": 0})],
            "refresh of one client": [
                connect(),
                Send("b", connect()),
                Api("refresh", {"user": "ann@", "client": Client("a"), "expire_at": 4102444800}),
            ],
        },
    ),
]
