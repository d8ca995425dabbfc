"""Publishing, and permissions."""

from cases import command, connect, publish, subscribe, table, user_token
from play import Send

ASKED = {
    "publish": lambda channel: command("publish", channel=channel, data={"a": 1}),
    "history": lambda channel: command("history", channel=channel, limit=5),
    "presence": lambda channel: command("presence", channel=channel),
    "presence_stats": lambda channel: command("presence_stats", channel=channel),
}
# For each command, channels in which a subscriber may use it, in which any client may, and in which no client may.
PLACES = {
    "publish": ["pub", "pubclient", "plain"],
    "history": ["hist", "histclient", "histno", "plain"],
    "presence": ["presence", "presclient", "presno", "plain"],
    "presence_stats": ["presence", "presclient", "presno", "plain"],
}
PAYLOADS = {
    "an object": '{"a": 1}',
    "an empty object": "{}",
    "a list": "[1, 2]",
    "a text": '"x"',
    "an empty text": '""',
    "a number": "5",
    "a large number": "12345678901234567890",
    "a fraction": "1.50",
    "a number with an exponent": "1e3",
    "true": "true",
    "false": "false",
    "null": "null",
    "letters beyond ASCII": '{"a": "é 漢 🙂"}',
    "escaped letters": '{"a": "\\u00e9\\n\\/"}',
    "spaces within": '{ "a" :  1 }',
    # A line feed would end the command.
    "a carriage return within": '{"a":\r1}',
    "a key that comes twice": '{"a":1,"a":2}',
}


def sent(payload):
    return [
        connect(),
        subscribe("pub:@"),
        f'{{"id":3,"publish":{{"channel":"pub:@","data":{payload}}}}}',
    ]


CASES = [
    *table(
        "may",
        {
            f"a subscriber ask for {name} in {place}": [connect(), subscribe(f"{place}:@"), ask(f"{place}:@")]
            for name, ask in ASKED.items()
            for place in PLACES[name]
        },
    ),
    *table(
        "may",
        {
            f"who is not subscribed ask for {name} in {place}": [connect(), ask(f"{place}:@")]
            for name, ask in ASKED.items()
            for place in PLACES[name]
        },
    ),
    *table(
        "may",
        {
            f"anybody ask for {name} in {what}": [connect(), ask(channel)]
            for name, ask in ASKED.items()
            for what, channel in {
                "an unknown namespace": "unknown:@",
                "a private channel": "$all:@",
                "an empty channel": "",
                "a channel without a namespace": "@",
            }.items()
        },
    ),
    *table("publish", {name: sent(payload) for name, payload in PAYLOADS.items()}),
    *table(
        "publish",
        {
            "without data": [connect(), subscribe("pub:@"), command("publish", channel="pub:@")],
            "without a channel": [connect(), command("publish", data=1)],
            "comes to others with who it was": [
                {"id": 1, "connect": {"token": user_token(info={"label": "Ann"})}},
                Send("b", connect("bob@")),
                subscribe("pub:@"),
                Send("b", subscribe("pub:@")),
                command("publish", channel="pub:@", data={"a": 1}),
            ],
            "several in one frame": [
                connect(),
                subscribe("rec:@"),
                [command("publish", number, channel="rec:@", data=number) for number in range(3, 9)],
            ],
            "into a stream": [
                connect(),
                subscribe("hist:@"),
                command("publish", channel="hist:@", data=1),
                command("publish", 4, channel="hist:@", data=2),
                command("history", 5, channel="hist:@", limit=-1),
            ],
            "after unsubscribe": [
                connect(),
                subscribe("pub:@"),
                command("unsubscribe", channel="pub:@"),
                command("publish", 4, channel="pub:@", data=1),
            ],
            "an object where JSON is asked for": [
                connect(),
                subscribe("json:@"),
                command("publish", channel="json:@", data={"a": 1}),
            ],
            "an object where an object is asked for": [
                connect(),
                subscribe("object:@"),
                command("publish", channel="object:@", data={"a": 1}),
            ],
            "a list where an object is asked for": [
                connect(),
                subscribe("object:@"),
                command("publish", channel="object:@", data=[1]),
            ],
            "with a type that needs a map": [
                connect(),
                subscribe("pub:@"),
                command("publish", channel="pub:@", data=1, type=1, key="k"),
            ],
            "from the API to two clients": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("plain:@"),
                Send("b", subscribe("plain:@")),
                publish("plain:@", {"a": 1}, tags={"x": "y"}),
            ],
        },
    ),
]
