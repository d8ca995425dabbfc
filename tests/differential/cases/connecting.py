"""Connect, tokens, refresh."""

from cases import command, connect, subscribe, table, user_token
from play import Case, Send, Token, Wait
from servers import OLD_SECRET


def with_token(token):
    return [{"id": 1, "connect": {"token": token}}]


def damaged(how):
    return Token({"sub": "ann@", "exp": 3600}, damage=how)


def swap_signature(text):
    head, body, signature = text.split(".")
    return f"{head}.{body}.{signature[::-1]}"


def shown(**claims):
    """Connects with these claims, whose effect on the user is visible in presence."""
    return [
        {"id": 1, "connect": {"token": Token({"sub": "ann@", "exp": 3600, **claims})}},
        subscribe("presence:@"),
        command("presence", channel="presence:@"),
    ]


CASES = [
    *table(
        "connect",
        {
            "with a token": [connect()],
            "with name and version of the library": [connect(name="tests", version="1.2.3")],
            "with data": [connect(data={"a": 1})],
            "with empty headers": [connect(headers={})],
            "with a flag that is unknown": [connect(flag=64)],
            "without a token": [{"id": 1, "connect": {}}],
            "with an empty token": with_token(""),
            "with a token that is null": [{"id": 1, "connect": {"token": None}}],
            "twice": [connect(), connect(id=2)],
            "twice in one frame": [[connect(), connect(id=2)]],
            "with a large id": [connect(id=4294967295)],
            "and subscribe in one frame": [[connect(), subscribe("plain:@")]],
            "and three subscribes in one frame": [
                [connect(), subscribe("plain:@1"), subscribe("plain:@2", 3), subscribe("none:@", 4)]
            ],
            "after a refused token in one frame": [[{"id": 1, "connect": {"token": "no"}}, subscribe("plain:@")]],
            "with subs as a client may not": [connect(subs={"plain:@": {}})],
            "by two clients of a user": [connect(), Send("b", connect())],
            "with a null body": ['{"id":1,"connect":null}'],
            "with a body that is a text": ['{"id":1,"connect":"x"}'],
            "with a body that is a list": ['{"id":1,"connect":[]}'],
            "with a token that is a number": ['{"id":1,"connect":{"token":5}}'],
            "with unknown fields": ['{"id":1,"connect":{"surprise":true}}'],
        },
    ),
    *table(
        "token",
        {
            "without exp": with_token(Token({"sub": "ann@"})),
            "that has expired": with_token(user_token(exp=-10)),
            "that expired long ago": with_token(user_token(exp=-100000)),
            "that is not yet valid": with_token(user_token(nbf=600)),
            "that has been valid": with_token(user_token(nbf=-600)),
            "issued in the future": with_token(user_token(iat=600)),
            "of another secret": with_token(Token({"sub": "ann@", "exp": 3600}, secret="another secret, also long enough")),
            "of the previous secret": with_token(Token({"sub": "ann@", "exp": 3600}, secret=OLD_SECRET)),
            "signed with HS384": with_token(Token({"sub": "ann@", "exp": 3600}, algorithm="HS384")),
            "signed with HS512": with_token(Token({"sub": "ann@", "exp": 3600}, algorithm="HS512")),
            "with algorithm none": with_token(Token({"sub": "ann@", "exp": 3600}, algorithm="none")),
            "with an algorithm that is unknown": with_token(Token({"sub": "ann@", "exp": 3600}, algorithm="XS256")),
            "for RS256 without a key": with_token(Token({"sub": "ann@", "exp": 3600}, algorithm="RS256")),
            "with a damaged signature": with_token(damaged(swap_signature)),
            "without a signature": with_token(damaged(lambda text: text.rpartition(".")[0] + ".")),
            "of two parts": with_token(damaged(lambda text: text.rpartition(".")[0])),
            "of four parts": with_token(damaged(lambda text: text + ".x")),
            "that is no token": with_token("not a token"),
            "with padding": with_token(damaged(lambda text: text + "=")),
            "with spaces around it": with_token(damaged(lambda text: f" {text} ")),
            "without sub": with_token(Token({"exp": 3600})),
            "with an empty sub": with_token(Token({"sub": "", "exp": 3600})),
            "with a sub that is a number": with_token(Token({"sub": 42, "exp": 3600})),
            "with a sub that is null": with_token(Token({"sub": None, "exp": 3600})),
            "with a sub that is an object": with_token(Token({"sub": {}, "exp": 3600})),
            "with a sub that is a list": with_token(Token({"sub": ["a"], "exp": 3600})),
            "with a channel, as for a subscription": with_token(user_token(channel="plain:@")),
            "with expire_at": with_token(user_token(expire_at=600)),
            "with expire_at 0": with_token(user_token(expire_at=0)),
            "with expire_at in the past": with_token(user_token(expire_at=-600)),
            "with exp that is a text": with_token(Token({"sub": "ann@", "exp": "soon"})),
            "with exp that is a fraction": with_token(Token({"sub": "ann@", "exp": 4102444800.5})),
            "with exp far ahead": with_token(user_token(exp=10 * 365 * 86400)),
            "with info": shown(info={"label": "Ann"}),
            "with info that is a text": shown(info="Ann"),
            "with info that is null": shown(info=None),
            "with b64info": shown(b64info="eyJsYWJlbCI6ICJBbm4ifQ=="),
            "with info and b64info": shown(info={"label": "info"}, b64info="eyJsYWJlbCI6ICJBbm4ifQ=="),
            "with b64info that is none": shown(b64info="%%%"),
            "with meta": with_token(user_token(meta={"a": 1})),
            "with meta that is a text": with_token(user_token(meta="a")),
            "with claims that are unknown": with_token(user_token(jti="x", roles=["a"])),
            "with an audience that nobody asked for": with_token(user_token(aud="somebody")),
        },
    ),
    *table(
        "token of an audience and issuer",
        {
            "as asked for": with_token(Token({"user": "ann@", "exp": 3600, "aud": "tests", "iss": "the tests"})),
            "with several audiences": with_token(
                Token({"user": "ann@", "exp": 3600, "aud": ["others", "tests"], "iss": "the tests"})
            ),
            "of another audience": with_token(Token({"user": "ann@", "exp": 3600, "aud": "others", "iss": "the tests"})),
            "without an audience": with_token(Token({"user": "ann@", "exp": 3600, "iss": "the tests"})),
            "of another issuer": with_token(Token({"user": "ann@", "exp": 3600, "aud": "tests", "iss": "others"})),
            "without an issuer": with_token(Token({"user": "ann@", "exp": 3600, "aud": "tests"})),
            "with sub in place of the user's claim": with_token(
                Token({"sub": "ann@", "exp": 3600, "aud": "tests", "iss": "the tests"})
            ),
            "with the user's claim seen in presence": [
                *with_token(Token({"user": "ann@", "sub": "bob@", "exp": 3600, "aud": "tests", "iss": "the tests"})),
                subscribe("presence:@"),
                command("presence", channel="presence:@"),
            ],
        },
        "claims",
    ),
    *table(
        "refresh",
        {
            "with a new token": [connect(), command("refresh", token=user_token(exp=7200))],
            "with a token without exp": [connect(), command("refresh", token=Token({"sub": "ann@"}))],
            "with an expired token": [connect(), command("refresh", token=user_token(exp=-10))],
            "with a token that is none": [connect(), command("refresh", token="no")],
            "of another user": [connect(), command("refresh", token=user_token("bob@"))],
            "without a token": [connect(), command("refresh")],
            "with an empty token": [connect(), command("refresh", token="")],
            "with a subscription token": [connect(), command("refresh", token=user_token(channel="plain:@"))],
            "of a connection that does not expire": [
                {"id": 1, "connect": {"token": Token({"sub": "ann@"})}},
                command("refresh", token=user_token(exp=7200)),
            ],
            "before connect": [command("refresh", token=user_token())],
            "with another info, seen in presence": [
                connect(),
                command("refresh", token=user_token(exp=7200, info={"label": "new"})),
                subscribe("presence:@", 4),
                command("presence", 5, channel="presence:@"),
            ],
        },
    ),
    *table(
        "expiry",
        {
            "closes a connection that is not refreshed": [
                {"id": 1, "connect": {"token": user_token(exp=2)}},
                Wait(4.5),
            ],
            "is put off by a refresh in time": [
                {"id": 1, "connect": {"token": user_token(exp=2)}},
                command("refresh", token=user_token(exp=3600)),
                Wait(4.5),
                command("rpc", 4, method="x", data={}),
            ],
            "is not there with expire_at 0": [
                {"id": 1, "connect": {"token": user_token(exp=2, expire_at=0)}},
                Wait(4.5),
                command("rpc", 4, method="x", data={}),
            ],
        },
        "limits",
    ),
    *table(
        "anonymous",
        {
            "connect without a token": [{"id": 1, "connect": {}}],
            "connect with a token": [connect()],
            "connect with a bad token": with_token("no"),
            "connect with an expired token": with_token(user_token(exp=-10)),
            "subscribe where it may": [{"id": 1, "connect": {}}, subscribe("anon:@")],
            "subscribe where it may not": [{"id": 1, "connect": {}}, subscribe("plain:@")],
            "publish where it may": [
                {"id": 1, "connect": {}},
                subscribe("anonpub:@"),
                command("publish", channel="anonpub:@", data={"a": 1}),
            ],
            "publish where it may, without being subscribed": [
                {"id": 1, "connect": {}},
                command("publish", channel="anonpub:@", data={"a": 1}),
            ],
            "publish where it may not": [
                {"id": 1, "connect": {}},
                subscribe("anon:@"),
                command("publish", channel="anon:@", data={"a": 1}),
            ],
            "publication tells who it was": [
                {"id": 1, "connect": {}},
                Send("b", {"id": 1, "connect": {}}),
                subscribe("all:@"),
                Send("b", subscribe("all:@")),
                command("publish", channel="all:@", data=1),
            ],
            "presence tells who it is": [
                {"id": 1, "connect": {}},
                subscribe("all:@"),
                command("presence", channel="all:@"),
                command("presence_stats", 4, channel="all:@"),
            ],
            "history where it may": [{"id": 1, "connect": {}}, command("history", channel="all:@", limit=5)],
            "user subscribes where anonymous clients may": [connect(), subscribe("anonpub:@")],
            "user publishes where anonymous clients may": [
                connect(),
                subscribe("anonpub:@"),
                command("publish", channel="anonpub:@", data={"a": 1}),
            ],
            "refresh": [{"id": 1, "connect": {}}, command("refresh", token=user_token())],
        },
        "anonymous",
    ),
    *table(
        "insecure",
        {
            "connect without a token": [{"id": 1, "connect": {}}],
            "connect with a bad token": with_token("no"),
            "connect with a good token": [connect()],
            "subscribe to any channel": [{"id": 1, "connect": {}}, subscribe("none:@")],
            "subscribe to an unknown namespace": [{"id": 1, "connect": {}}, subscribe("unknown:@")],
            "subscribe to a private channel": [{"id": 1, "connect": {}}, subscribe("$none:@")],
            "subscribe to another user's channel": [{"id": 1, "connect": {}}, subscribe("user:@#bob")],
            "publish": [{"id": 1, "connect": {}}, command("publish", channel="none:@", data=1)],
            "history": [{"id": 1, "connect": {}}, command("history", channel="histno:@", limit=1)],
            "history where none is kept": [{"id": 1, "connect": {}}, command("history", channel="none:@", limit=1)],
            "presence": [{"id": 1, "connect": {}}, command("presence", channel="presno:@")],
            "presence where none is kept": [{"id": 1, "connect": {}}, command("presence", channel="none:@")],
        },
        "insecure",
    ),
    Case(
        "connect: ids of clients differ",
        [
            connect(),
            Send("b", connect()),
            subscribe("presence:@"),
            Send("b", subscribe("presence:@")),
            command("presence", channel="presence:@"),
        ],
    ),
]
