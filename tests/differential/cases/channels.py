"""Names of channels, subscribe, unsubscribe, sub_refresh."""

from cases import command, connect, publish, subscribe, subscription_token, table, user_token
from play import Client, Token, Wait


def entered(channel, **fields):
    return [connect(), subscribe(channel, **fields)]


def by_token(token, channel="$none:@"):
    return [connect(), subscribe(channel, token=token)]


NAMES = {
    "without a namespace": "@",
    "in a namespace": "plain:@",
    "in an unknown namespace": "unknown:@",
    "in a namespace that allows nothing": "none:@",
    "with an empty namespace": ":@",
    "with an empty rest": "plain:",
    "with two boundaries": "plain:@:b",
    "empty": "",
    "of 255 bytes": "plain:@" + "x" * 243,
    "of 256 bytes and more": "plain:@" + "x" * 250,
    "with a space": "plain:@ x",
    "with a letter beyond ASCII": "plain:@é",
    "with a control character": "plain:@\u0001",
    "with a line break": "plain:@\n",
    "with DEL": "plain:@\u007f",
    "with a slash": "plain:/@",
    "with a star": "plain:@*",
    "with an ampersand": "plain:@&x",
    "with quotes": 'plain:@"x"',
    "with a backslash": "plain:@\\x",
    "private, without a token": "$plain:@",
    "private, without a namespace and a token": "$@",
    "private, in an unknown namespace": "$unknown:@",
    "for a user": "user:@#ann@",
    "for several users": "user:@#bob@,ann@",
    "for another user": "user:@#bob@",
    "for nobody": "user:@#",
    "for a user, where that is not allowed": "none:@#ann@",
    "for a user, where all may": "plain:@#ann@",
    "for another user, where all may": "plain:@#bob@",
    "for a user behind two marks": "user:@#bob@#ann@",
    "where only users' channels are": "user:@",
    "of the shape asked for": "regex:abc@",
    "not of the shape asked for": "regex:ABC",
}

CASES = [
    *table("channel", {name: entered(channel) for name, channel in NAMES.items()}),
    *table(
        "subscribe",
        {
            "twice": [connect(), subscribe("plain:@"), subscribe("plain:@", 3)],
            "twice in one frame": [connect(), [subscribe("plain:@"), subscribe("plain:@", 3)]],
            "again after unsubscribe": [
                connect(),
                subscribe("plain:@"),
                command("unsubscribe", channel="plain:@"),
                subscribe("plain:@", 4),
            ],
            "without a channel": [connect(), {"id": 2, "subscribe": {}}],
            "with data": entered("plain:@", data={"a": 1}),
            "with a flag": entered("plain:@", flag=1),
            "with an unknown flag": entered("plain:@", flag=128),
            "with an unknown delta": entered("plain:@", delta="magic"),
            "with a delta that is not allowed": entered("rec:@", delta="fossil"),
            "with an unknown type": entered("plain:@", type=9),
            "to a channel of another user's token": [
                connect(),
                subscribe("$none:@", token=subscription_token("$none:@", "bob@")),
            ],
            "with a token where none is needed": by_token(subscription_token("plain:@"), "plain:@"),
            "with a bad token where none is needed": by_token("no", "plain:@"),
            "positioned where it may": entered("ask:@", positioned=True),
            "recoverable where it may": entered("ask:@", recoverable=True),
            "positioned where it may not": entered("histno:@", positioned=True),
            "recoverable where it may not": entered("histno:@", recoverable=True),
            "recoverable where there is no history": entered("plain:@", recoverable=True),
            "where positions are forced": entered("pos:@"),
            "where recovery is forced": entered("rec:@"),
            "where history is kept for others": entered("histno:@"),
            "to a channel with publications": [connect(), publish("rec:@", 1), publish("rec:@", 2), subscribe("rec:@")],
            "with join_leave where it may not": entered("plain:@", join_leave=True),
            "to several namespaces in one frame": [
                connect(),
                [subscribe("plain:@"), subscribe("rec:@", 3), subscribe("unknown:@", 4), subscribe("$none:@", 5)],
            ],
        },
    ),
    *table(
        "subscription token",
        {
            "for its channel": by_token(subscription_token("$none:@")),
            "for a channel that is not private": by_token(subscription_token("none:@"), "none:@"),
            "for a channel of an unknown namespace": by_token(subscription_token("$unknown:@"), "$unknown:@"),
            "for a channel of another user": by_token(subscription_token("user:@#bob@"), "user:@#bob@"),
            "that has expired": by_token(subscription_token("$none:@", exp=-10)),
            "without exp": by_token(Token({"sub": "ann@", "channel": "$none:@"})),
            "that is not yet valid": by_token(subscription_token("$none:@", nbf=600)),
            "for another channel": by_token(subscription_token("$none:other@")),
            "for another user": by_token(subscription_token("$none:@", "bob@")),
            "without a user": by_token(Token({"channel": "$none:@", "exp": 3600})),
            "without a channel": by_token(user_token()),
            "with an empty channel": by_token(subscription_token("")),
            "of another secret": by_token(Token({"sub": "ann@", "channel": "$none:@"}, secret="another secret of some length")),
            "that is no token": by_token("no"),
            "for this client": [
                connect(),
                subscribe("$none:@", token=subscription_token("$none:@", client=Client("a"))),
            ],
            "for another client": by_token(subscription_token("$none:@", client="somebody")),
            "with expire_at": by_token(subscription_token("$none:@", expire_at=600)),
            "with expire_at 0": by_token(subscription_token("$none:@", expire_at=0)),
            "with expire_at in the past": by_token(subscription_token("$none:@", expire_at=-600)),
            "with data": by_token(subscription_token("$none:@", data={"a": 1})),
            "with b64data": by_token(subscription_token("$none:@", b64data="eyJhIjoxfQ==")),
            "with info, seen in presence": [
                *by_token(subscription_token("$presence:@", info={"label": "Ann"}), "$presence:@"),
                command("presence", channel="$presence:@"),
            ],
            "with b64info, seen in presence": [
                *by_token(subscription_token("$presence:@", b64info="eyJsYWJlbCI6MX0="), "$presence:@"),
                command("presence", channel="$presence:@"),
            ],
            "that overrides presence": [
                *by_token(subscription_token("$none:@", override={"presence": {"value": True}})),
                command("presence", channel="$none:@"),
            ],
            "that overrides recovery": by_token(
                subscription_token("$histno:@", override={"force_recovery": {"value": True}}), "$histno:@"
            ),
            "that overrides positions": by_token(
                subscription_token("$histno:@", override={"force_positioning": {"value": True}}), "$histno:@"
            ),
            "that overrides recovery to no": by_token(
                subscription_token("$rec:@", override={"force_recovery": {"value": False}}), "$rec:@"
            ),
            "that overrides joins": by_token(
                subscription_token(
                    "$presno:@", override={"join_leave": {"value": True}, "force_push_join_leave": {"value": True}}
                ),
                "$presno:@",
            ),
        },
    ),
    *table(
        "unsubscribe",
        {
            "a subscription": [connect(), subscribe("plain:@"), command("unsubscribe", channel="plain:@")],
            "twice": [
                connect(),
                subscribe("plain:@"),
                command("unsubscribe", channel="plain:@"),
                command("unsubscribe", 4, channel="plain:@"),
            ],
            "what never was": [connect(), command("unsubscribe", channel="plain:@")],
            "in an unknown namespace": [connect(), command("unsubscribe", channel="unknown:@")],
            "without a channel": [connect(), command("unsubscribe")],
            "ends publications": [
                connect(),
                subscribe("plain:@"),
                publish("plain:@", 1),
                command("unsubscribe", channel="plain:@"),
                publish("plain:@", 2),
            ],
            "in the frame of the subscribe": [
                connect(),
                [subscribe("plain:@"), command("unsubscribe", channel="plain:@")],
                publish("plain:@", 1),
            ],
            "of a server's subscription": [
                {"id": 1, "connect": {"token": user_token(channels=["plain:@"])}},
                command("unsubscribe", channel="plain:@"),
                publish("plain:@", 1),
            ],
        },
    ),
    *table(
        "sub_refresh",
        {
            "with a new token": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@", exp=7200)),
            ],
            "with a token without exp": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token=Token({"sub": "ann@", "channel": "$none:@"})),
            ],
            "with an expired token": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@", exp=-10)),
            ],
            "for another channel": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:other@")),
            ],
            "of another user": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@", "bob@")),
            ],
            "with a token that is none": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@", token="no"),
            ],
            "without a token": [
                *by_token(subscription_token("$none:@")),
                command("sub_refresh", channel="$none:@"),
            ],
            "without a channel": [connect(), command("sub_refresh", token="x")],
            "without a subscription": [
                connect(),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@")),
            ],
            "of a subscription without a token": [
                connect(),
                subscribe("plain:@"),
                command("sub_refresh", channel="plain:@", token=subscription_token("plain:@")),
            ],
            "of one that does not expire": [
                *by_token(Token({"sub": "ann@", "channel": "$none:@"})),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@")),
            ],
            "in an unknown namespace": [connect(), command("sub_refresh", channel="unknown:@", token="x")],
        },
    ),
    *table(
        "expiry of a subscription",
        {
            "ends it": [
                *by_token(subscription_token("$none:@", exp=2)),
                Wait(5),
            ],
            "is put off by a sub_refresh": [
                *by_token(subscription_token("$none:@", exp=2)),
                command("sub_refresh", channel="$none:@", token=subscription_token("$none:@", exp=3600)),
                Wait(5),
                publish("$none:@", 1),
            ],
        },
        "limits",
    ),
]
