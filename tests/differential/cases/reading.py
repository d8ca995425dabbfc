"""History and presence."""

from cases import command, connect, publish, publish_several, subscribe, table, user_token
from play import Api, Epoch, Leave, Send, Wait


def history(id=10, **fields):
    return command("history", id, channel="hist:@", **fields)


def with_five(*steps):
    return [connect(), subscribe("hist:@"), publish_several("hist:@", 5), *steps]


CASES = [
    *table(
        "history",
        {
            "of an empty channel": [connect(), subscribe("hist:@"), history(limit=-1)],
            "position of an empty channel": [connect(), subscribe("hist:@"), history()],
            "position": with_five(history()),
            "all": with_five(history(limit=-1)),
            "two": with_five(history(limit=2)),
            "more than there are": with_five(history(limit=100)),
            "newest first": with_five(history(limit=-1, reverse=True)),
            "the two newest": with_five(history(limit=2, reverse=True)),
            "since a position": with_five(history(limit=-1, since={"offset": 2, "epoch": Epoch})),
            "since a position, one": with_five(history(limit=1, since={"offset": 2, "epoch": Epoch})),
            "since the beginning": with_five(history(limit=-1, since={"offset": 0, "epoch": Epoch})),
            "since the top": with_five(history(limit=-1, since={"offset": 5, "epoch": Epoch})),
            "since beyond the top": with_five(history(limit=-1, since={"offset": 50, "epoch": Epoch})),
            "since a position, newest first": with_five(history(limit=-1, reverse=True, since={"offset": 4, "epoch": Epoch})),
            "since the beginning, newest first": with_five(
                history(limit=-1, reverse=True, since={"offset": 0, "epoch": Epoch})
            ),
            "since beyond the top, newest first": with_five(
                history(limit=-1, reverse=True, since={"offset": 50, "epoch": Epoch})
            ),
            "since another epoch": with_five(history(limit=-1, since={"offset": 2, "epoch": "other"})),
            "since a position without an epoch": with_five(history(limit=-1, since={"offset": 2})),
            "since nothing": with_five(history(limit=-1, since={})),
            "since a position, position only": with_five(history(limit=0, since={"offset": 2, "epoch": Epoch})),
            "with a limit below -1": with_five(history(limit=-5)),
            "with a limit that is a text": with_five('{"id":10,"history":{"channel":"hist:@","limit":"2"}}'),
            "of what was trimmed": [
                connect(),
                subscribe("hist:@"),
                publish_several("hist:@", 12),
                history(limit=-1),
                history(11, limit=-1, since={"offset": 1, "epoch": Epoch}),
            ],
            "with tags and info": [
                {"id": 1, "connect": {"token": user_token(info={"label": "Ann"})}},
                subscribe("hist:@"),
                publish("hist:@", 1, tags={"a": "b"}),
                command("publish", channel="hist:@", data=2),
                history(limit=-1),
            ],
            "after it was removed": with_five(Api("history_remove", {"channel": "hist:@"}), history(limit=-1)),
            "what was not kept is not in it": [
                connect(),
                subscribe("hist:@"),
                publish("hist:@", 1),
                publish("hist:@", 2, skip_history=True),
                history(limit=-1),
            ],
        },
    ),
    *table(
        "presence",
        {
            "of one": [connect(), subscribe("presence:@"), command("presence", channel="presence:@")],
            "of two users": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("presence:@"),
                Send("b", subscribe("presence:@")),
                command("presence", channel="presence:@"),
                command("presence_stats", 4, channel="presence:@"),
            ],
            "of two clients of a user": [
                connect(),
                Send("b", connect()),
                subscribe("presence:@"),
                Send("b", subscribe("presence:@")),
                command("presence", channel="presence:@"),
                command("presence_stats", 4, channel="presence:@"),
            ],
            "after one has left": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("presence:@"),
                Send("b", subscribe("presence:@")),
                Leave("b"),
                Wait(0.3),
                command("presence", channel="presence:@"),
                command("presence_stats", 4, channel="presence:@"),
            ],
            "after one has unsubscribed": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("presence:@"),
                Send("b", subscribe("presence:@")),
                Send("b", command("unsubscribe", channel="presence:@")),
                command("presence", channel="presence:@"),
            ],
            "of nobody": [connect(), command("presence", channel="presclient:@")],
            "counts of nobody": [connect(), command("presence_stats", channel="presclient:@")],
            "with info": [
                {"id": 1, "connect": {"token": user_token(info={"a": [1]})}},
                subscribe("presence:@"),
                command("presence", channel="presence:@"),
            ],
        },
    ),
    *table(
        "joins and leaves",
        {
            "where they are forced": [
                connect(),
                subscribe("join:@"),
                Send("b", connect("bob@")),
                Send("b", subscribe("join:@")),
                Send("b", command("unsubscribe", channel="join:@")),
            ],
            "when a client goes away": [
                connect(),
                subscribe("join:@"),
                Send("b", connect("bob@")),
                Send("b", subscribe("join:@")),
                Leave("b"),
                Wait(0.3),
            ],
            "where one asks for them": [
                connect(),
                subscribe("joinask:@", join_leave=True),
                Send("b", connect("bob@")),
                Send("b", subscribe("joinask:@")),
                Send("b", command("unsubscribe", channel="joinask:@")),
            ],
            "where one does not ask": [
                connect(),
                subscribe("joinask:@"),
                Send("b", connect("bob@")),
                Send("b", subscribe("joinask:@", join_leave=True)),
                command("unsubscribe", channel="joinask:@"),
            ],
            "with info": [
                connect(),
                subscribe("join:@"),
                Send("b", {"id": 1, "connect": {"token": user_token("bob@", info={"label": "Bob"})}}),
                Send("b", subscribe("join:@")),
            ],
            "when the server ends a subscription": [
                connect(),
                subscribe("join:@"),
                Send("b", connect("bob@")),
                Send("b", subscribe("join:@")),
                Api("unsubscribe", {"channel": "join:@", "user": "bob@"}),
            ],
            "when the server ends a connection": [
                connect(),
                subscribe("join:@"),
                Send("b", connect("bob@")),
                Send("b", subscribe("join:@")),
                Api("disconnect", {"user": "bob@"}),
            ],
            "of several clients": [
                connect(),
                subscribe("join:@"),
                *[Send(link, connect(f"{link}@")) for link in "bcd"],
                *[Send(link, subscribe("join:@")) for link in "bcd"],
            ],
        },
    ),
]
