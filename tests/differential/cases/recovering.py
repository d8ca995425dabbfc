"""Recovery, the newest publication alone, deltas and filters."""

from cases import command, connect, publish, publish_several, subscribe, table
from play import Api, Epoch, Send


def back(channel, number, offset, epoch=Epoch, **fields):
    """A client that unsubscribes, and recovers after `number` publications."""
    return [
        connect(),
        subscribe(channel),
        command("unsubscribe", channel=channel),
        publish_several(channel, number),
        subscribe(channel, 4, recover=True, offset=offset, epoch=epoch, **fields),
        publish(channel, "live"),
    ]


def filtered(tf, channel="tags:@"):
    return [
        connect(),
        subscribe(channel, tf=tf),
        publish(channel, 1, tags={"kind": "a", "size": "5"}),
        publish(channel, 2, tags={"kind": "b", "size": "50"}),
        publish(channel, 3),
        publish(channel, 4, tags={"other": "x"}),
    ]


def leaf(key, cmp, val=None, vals=None):
    node = {"key": key, "cmp": cmp}
    if val is not None:
        node["val"] = val
    if vals is not None:
        node["vals"] = vals
    return node


LONG = "the same long text again and again, so that what has changed is far less than the whole " * 3


def changed(n):
    return {"n": n, "text": LONG}


FILTERS = {
    "equal": leaf("kind", "eq", "a"),
    "not equal": leaf("kind", "neq", "a"),
    "one of": leaf("kind", "in", vals=["a", "c"]),
    "none of": leaf("kind", "nin", vals=["a", "c"]),
    "there": leaf("kind", "ex"),
    "not there": leaf("kind", "nex"),
    "beginning": leaf("kind", "sw", "a"),
    "ending": leaf("kind", "ew", "b"),
    "holding": leaf("kind", "ct", "a"),
    "less": leaf("size", "lt", "10"),
    "at most": leaf("size", "lte", "5"),
    "more": leaf("size", "gt", "5"),
    "at least": leaf("size", "gte", "50"),
    "both": {"op": "and", "nodes": [leaf("kind", "eq", "a"), leaf("size", "lt", "10")]},
    "either": {"op": "or", "nodes": [leaf("kind", "eq", "a"), leaf("other", "ex")]},
    "not": {"op": "not", "nodes": [leaf("kind", "eq", "a")]},
    "empty": {},
    "of an unknown comparison": leaf("kind", "like", "a"),
    "of an unknown operation": {"op": "xor", "nodes": [leaf("kind", "eq", "a")]},
    "without nodes": {"op": "and"},
    "not, of two": {"op": "not", "nodes": [leaf("kind", "ex"), leaf("size", "ex")]},
    "without a key": leaf("", "eq", "a"),
    "compared with no number": leaf("size", "lt", "many"),
}

CASES = [
    *table(
        "recovery",
        {
            "of everything": back("rec:@", 3, 0),
            "of a part": back("rec:@", 3, 2),
            "of nothing": back("rec:@", 3, 3),
            "from beyond the top": back("rec:@", 3, 30),
            "of a channel without publications": [
                connect(),
                subscribe("rec:@"),
                command("unsubscribe", channel="rec:@"),
                subscribe("rec:@", 4, recover=True, offset=0, epoch=Epoch),
            ],
            "of more than is kept": back("small:@", 5, 1),
            "of as much as is kept": back("small:@", 5, 3),
            "of another epoch": back("rec:@", 3, 1, "other"),
            "without an epoch": back("rec:@", 3, 1, ""),
            "of another epoch at the top": back("rec:@", 3, 3, "other"),
            "that would rather fail": back("small:@", 5, 1, flag=2),
            "that would rather fail and succeeds": back("small:@", 5, 3, flag=2),
            "of another epoch that would rather fail": back("rec:@", 3, 1, "other", flag=2),
            "where it must be asked for": back("ask:@", 3, 1),
            "where it must be asked for, and is": back("ask:@", 3, 1, recoverable=True),
            "where there is none": back("plain:@", 2, 0, "x"),
            "where there is history but no recovery": back("histno:@", 3, 1),
            "where positions alone are forced": back("pos:@", 3, 1),
            "where there is none, that would rather fail": back("plain:@", 2, 0, "x", flag=2),
            "after history was removed": [
                connect(),
                subscribe("rec:@"),
                publish_several("rec:@", 3),
                command("unsubscribe", channel="rec:@"),
                Api("history_remove", {"channel": "rec:@"}),
                subscribe("rec:@", 4, recover=True, offset=1, epoch=Epoch),
                publish("rec:@", "live"),
            ],
            "after history was removed, at the top": [
                connect(),
                subscribe("rec:@"),
                publish_several("rec:@", 3),
                command("unsubscribe", channel="rec:@"),
                Api("history_remove", {"channel": "rec:@"}),
                subscribe("rec:@", 4, recover=True, offset=3, epoch=Epoch),
            ],
            "with tags and info": [
                connect(),
                subscribe("rec:@"),
                publish("rec:@", 1, tags={"a": "b"}),
                command("publish", channel="rec:@", data=2),
                command("unsubscribe", 4, channel="rec:@"),
                subscribe("rec:@", 5, recover=True, offset=0, epoch=Epoch),
            ],
            "with a text as offset": [connect(), '{"id":2,"subscribe":{"channel":"rec:@","recover":true,"offset":"1"}}'],
            "with a negative offset": [connect(), '{"id":2,"subscribe":{"channel":"rec:@","recover":true,"offset":-1}}'],
            "of a second client": [
                connect(),
                subscribe("rec:@"),
                publish_several("rec:@", 2),
                Send("b", connect("bob@")),
                Send("b", subscribe("rec:@", recover=True, offset=1, epoch=Epoch)),
            ],
        },
    ),
    *table(
        "newest alone",
        {
            "of an empty channel": [connect(), subscribe("cache:@", recover=True)],
            "without asking": [connect(), publish_several("cache:@", 3), subscribe("cache:@")],
            "with recover and no position": [connect(), publish_several("cache:@", 3), subscribe("cache:@", recover=True)],
            "from an old position": back("cache:@", 3, 1),
            "from the top": back("cache:@", 3, 3),
            "of another epoch": back("cache:@", 3, 3, "other"),
            "after history was removed": [
                connect(),
                publish_several("cache:@", 3),
                Api("history_remove", {"channel": "cache:@"}),
                subscribe("cache:@", recover=True),
            ],
            "by itself": [connect(), publish_several("auto:@", 3), subscribe("auto:@"), publish("auto:@", "live")],
            "by itself, of an empty channel": [connect(), subscribe("auto:@"), publish("auto:@", "live")],
            "by itself, from the top": back("auto:@", 3, 3),
            "that would rather fail": back("cache:@", 3, 1, "other", flag=2),
        },
    ),
    *table(
        "delta",
        {
            "of publications that are alike": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                *[publish("delta:@", changed(n)) for n in range(4)],
            ],
            "of publications that are nothing alike": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                publish("delta:@", "a"),
                publish("delta:@", {"b": 1}),
                publish("delta:@", [1, 2, 3]),
            ],
            "for one of two clients": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("delta:@", delta="fossil"),
                Send("b", subscribe("delta:@")),
                *[publish("delta:@", changed(n)) for n in range(3)],
            ],
            "of publications that were there before": [
                connect(),
                publish("delta:@", changed(1)),
                subscribe("delta:@", delta="fossil"),
                publish("delta:@", changed(2)),
                publish("delta:@", changed(3)),
            ],
            "where publishers do not ask": [
                connect(),
                subscribe("deltaask:@", delta="fossil"),
                *[publish("deltaask:@", changed(n)) for n in range(3)],
            ],
            "where publishers ask": [
                connect(),
                subscribe("deltaask:@", delta="fossil"),
                *[publish("deltaask:@", changed(n), delta=True) for n in range(3)],
            ],
            "where some publishers ask": [
                connect(),
                subscribe("deltaask:@", delta="fossil"),
                publish("deltaask:@", changed(1), delta=True),
                publish("deltaask:@", changed(2)),
                publish("deltaask:@", changed(3), delta=True),
            ],
            "in recovery": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                command("unsubscribe", channel="delta:@"),
                *[publish("delta:@", changed(n)) for n in range(3)],
                subscribe("delta:@", 4, delta="fossil", recover=True, offset=0, epoch=Epoch),
                publish("delta:@", changed(4)),
            ],
            "in recovery of nothing": [
                connect(),
                publish("delta:@", changed(1)),
                subscribe("delta:@", delta="fossil", recover=True, offset=1, epoch=Epoch),
                publish("delta:@", changed(2)),
            ],
            "of texts beyond ASCII": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                publish("delta:@", {"text": "é漢🙂" * 40, "n": 1}),
                publish("delta:@", {"text": "é漢🙂" * 40, "n": 2}),
            ],
            "of the same twice": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                publish("delta:@", changed(1)),
                publish("delta:@", changed(1)),
            ],
            "with tags": [
                connect(),
                subscribe("delta:@", delta="fossil"),
                publish("delta:@", changed(1), tags={"a": "b"}),
                publish("delta:@", changed(2), tags={"a": "c"}),
            ],
        },
    ),
    *table("filter", {name: filtered(tf) for name, tf in FILTERS.items()}),
    *table(
        "filter",
        {
            "where it may not": [connect(), subscribe("rec:@", tf=leaf("kind", "eq", "a"))],
            "where nothing is kept": filtered(leaf("kind", "eq", "a"), "tagsplain:@"),
            "in recovery": [
                connect(),
                subscribe("tags:@"),
                command("unsubscribe", channel="tags:@"),
                publish("tags:@", 1, tags={"kind": "a"}),
                publish("tags:@", 2, tags={"kind": "b"}),
                publish("tags:@", 3, tags={"kind": "a"}),
                subscribe("tags:@", 4, recover=True, offset=0, epoch=Epoch, tf=leaf("kind", "eq", "a")),
                publish("tags:@", 4, tags={"kind": "a"}),
            ],
            "for one of two clients": [
                connect(),
                Send("b", connect("bob@")),
                subscribe("tags:@", tf=leaf("kind", "eq", "a")),
                Send("b", subscribe("tags:@")),
                publish("tags:@", 1, tags={"kind": "a"}),
                publish("tags:@", 2, tags={"kind": "b"}),
            ],
        },
    ),
]
