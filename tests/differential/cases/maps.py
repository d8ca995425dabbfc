"""Channels that keep state by key: reading, changing, recovering, statistics."""

from cases import command, connect, publish, subscription_token, table, user_token
from play import Api, Epoch, Leave, Send

STATE = 2
CHANGES = 1


def read(channel, id=2, phase=STATE, **fields):
    return {"id": id, "subscribe": {"channel": channel, "type": 1, "phase": phase, **fields}}


def set_key(channel, key, data, **fields):
    return Api("map_publish", {"channel": channel, "key": key, "data": data, **fields})


def several(channel, number):
    commands = [{"map_publish": {"channel": channel, "key": f"k{n:03}", "data": n}} for n in range(number)]
    return Api("batch", {"commands": commands})


def write(channel, key="k", id=3, **fields):
    return command("publish", id, channel=channel, type=1, key=key, **fields)


def recover(channel, offset, epoch=Epoch, id=2, phase=CHANGES, **fields):
    return read(channel, id, phase=phase, recover=True, offset=offset, epoch=epoch, **fields)


reading = {
    "of nothing": [connect(), read("map:@")],
    "of nothing, without a stream": [connect(), read("brief:@")],
    "of one page": [several("map:@", 3), connect(), read("map:@")],
    "of one page, without a stream": [several("brief:@", 3), connect(), read("brief:@")],
    "of one page of what stays": [several("lasting:@", 3), connect(), read("lasting:@")],
    "what is removed": [
        several("map:@", 3),
        Api("map_remove", {"channel": "map:@", "key": "k001"}),
        connect(),
        read("map:@"),
    ],
    "and what changes then": [
        several("map:@", 1),
        connect(),
        read("map:@"),
        set_key("map:@", "k000", "new"),
        set_key("map:@", "more", 1),
    ],
    "and what changes then, without a stream": [
        connect(),
        read("brief:@"),
        set_key("brief:@", "a", 1),
        set_key("brief:@", "a", 2),
    ],
    "and what is removed then": [
        several("map:@", 2),
        connect(),
        read("map:@"),
        Api("map_remove", {"channel": "map:@", "key": "k000"}),
    ],
    "in pages of a hundred": [
        several("map:@", 150),
        connect(),
        read("map:@", limit=100),
        read("map:@", 3, limit=100, cursor="k099", offset=150, epoch=Epoch),
    ],
    "with a filter": [
        set_key("maptags:@", "a", 1, tags={"t": "x"}),
        set_key("maptags:@", "b", 2, tags={"t": "y"}),
        connect(),
        read("maptags:@", tf={"key": "t", "cmp": "eq", "val": "x"}),
        set_key("maptags:@", "c", 3, tags={"t": "x"}),
        set_key("maptags:@", "d", 4, tags={"t": "y"}),
    ],
    "with a filter that is not allowed": [connect(), read("map:@", tf={"key": "t", "cmp": "eq", "val": "x"})],
    "with a token": [connect(), read("$map:@", token=subscription_token("$map:@"))],
    "of a private one without a token": [connect(), read("$map:@")],
    "as a stream": [connect(), read("map:@", type=0)],
    "as clients": [connect(), read("map:@", type=2)],
    "a stream as a map": [connect(), read("rec:@")],
    "twice": [connect(), read("map:@"), read("map:@", 3)],
    "from a cursor without a beginning": [connect(), read("map:@", cursor="k")],
    "in a phase that there is not": [connect(), read("map:@", phase=7)],
    "of an epoch that is over": [several("map:@", 1), connect(), read("map:@", offset=1, epoch="gone")],
    "and leave": [connect(), read("map:@"), command("unsubscribe", 3, channel="map:@"), set_key("map:@", "a", 1)],
    "and again": [connect(), read("map:@"), command("unsubscribe", 3, channel="map:@"), read("map:@", 4)],
    "history": [connect(), read("map:@"), command("history", 3, channel="map:@", limit=10)],
    "presence": [connect(), read("map:@"), command("presence", 3, channel="map:@")],
}

recovering = {
    "of what was missed": [
        several("map:@", 2),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        recover("map:@", 1),
    ],
    "of nothing": [
        several("map:@", 2),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        recover("map:@", 2),
    ],
    "of removals": [
        several("map:@", 2),
        Api("map_remove", {"channel": "map:@", "key": "k000"}),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        recover("map:@", 2),
    ],
    "of another epoch": [several("map:@", 2), connect(), recover("map:@", 1, epoch="gone")],
    "of more than is kept": [
        several("map:@", 15),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        recover("map:@", 1),
    ],
    "without a stream": [several("brief:@", 1), connect(), recover("brief:@", 0, epoch="")],
    "without asking to": [connect(), read("map:@", phase=CHANGES, offset=0, epoch="")],
    "live at once": [
        several("map:@", 2),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        recover("map:@", 1, phase=0),
    ],
    "after it was cleared": [
        several("map:@", 2),
        connect(),
        Api("map_read_state", {"channel": "map:@", "limit": 1}),
        Api("map_clear", {"channel": "map:@"}),
        recover("map:@", 2),
    ],
    "after a pause": [
        several("map:@", 1),
        Send("b", [connect("bob@"), read("map:@")]),
        Leave("b"),
        set_key("map:@", "late", 1),
        Send("c", [connect("bob@"), recover("map:@", 1)]),
    ],
}

writing = {
    "by a subscriber": [connect(), read("map:@"), write("map:@", data={"a": 1})],
    "and removing": [connect(), read("map:@"), write("map:@", data=1), write("map:@", id=4, removed=True)],
    "and removing, without a stream": [
        connect(),
        read("brief:@"),
        write("brief:@", data=1),
        write("brief:@", id=4, removed=True),
    ],
    "removing what is not there": [connect(), read("map:@"), write("map:@", removed=True)],
    "by one who is no subscriber": [connect(), write("map:@", data=1)],
    "removing by one who is no subscriber": [connect(), write("map:@", removed=True)],
    "where subscribers may not": [
        connect(),
        read("lasting:@"),
        write("lasting:@", data=1),
        write("lasting:@", id=4, removed=True),
    ],
    "without a key": [connect(), read("map:@"), write("map:@", key="", data=1)],
    "a key in a stream": [connect(), command("subscribe", 2, channel="pub:@"), write("pub:@", data=1)],
    "without a type": [connect(), read("map:@"), command("publish", 3, channel="map:@", data=1)],
    "the key of one's own user": [connect(), read("mapown:@"), write("mapown:@", key="other", data=1)],
    "the key of nobody": [Send("a", [connect(user="")]), read("mapown:@"), write("mapown:@", key="other", data=1)],
}

asking = {
    "what was set": [set_key("map:@", "a", 1), set_key("map:@", "a", 2)],
    "what was set, without a stream": [
        set_key("brief:@", "a", 1),
        Api("map_read_state", {"channel": "brief:@", "limit": 10}),
    ],
    "a key that is there already": [set_key("map:@", "a", 1), set_key("map:@", "a", 2, key_mode="if_new")],
    "a key that is not there": [set_key("map:@", "a", 1, key_mode="if_exists")],
    "a key that is there as expected": [
        set_key("map:@", "a", 1, key_mode="if_new"),
        set_key("map:@", "a", 2, key_mode="if_exists"),
    ],
    "an older version": [
        set_key("map:@", "a", 1, version=5),
        set_key("map:@", "a", 2, version=4),
        set_key("map:@", "a", 3, version=6),
    ],
    "the same once more": [
        set_key("map:@", "a", 1, idempotency_key="@"),
        set_key("map:@", "a", 1, idempotency_key="@"),
    ],
    "without a key": [set_key("map:@", "", 1)],
    "in a stream": [set_key("rec:@", "a", 1)],
    "in a channel that there is not": [set_key("nowhere:@", "a", 1)],
    "removing": [set_key("map:@", "a", 1), Api("map_remove", {"channel": "map:@", "key": "a"})],
    "removing what is not there": [Api("map_remove", {"channel": "map:@", "key": "a"})],
    "the state of one key": [several("map:@", 3), Api("map_read_state", {"channel": "map:@", "key": "k001"})],
    "the state in pages": [
        several("map:@", 3),
        Api("map_read_state", {"channel": "map:@", "limit": 2}),
        Api("map_read_state", {"channel": "map:@", "limit": 2, "cursor": "k001"}),
    ],
    "how many keys": [several("map:@", 3), Api("map_stats", {"channel": "map:@"})],
    "the stream": [several("map:@", 3), Api("map_read_stream", {"channel": "map:@", "limit": 10})],
    "the stream where there is none": [Api("map_read_stream", {"channel": "brief:@", "limit": 10})],
    "for publish": [publish("map:@", 1)],
    "clearing": [several("map:@", 3), Api("map_clear", {"channel": "map:@"}), Api("map_stats", {"channel": "map:@"})],
    "clearing under subscribers": [
        several("map:@", 2),
        connect(),
        read("map:@"),
        Api("map_clear", {"channel": "map:@"}),
    ],
}

served = {
    "by a token": [{"id": 1, "connect": {"token": user_token(subs={"map:@": {}})}}, set_key("map:@", "a", 1)],
    "by a token, without a stream": [
        {"id": 1, "connect": {"token": user_token(subs={"brief:@": {}})}},
        set_key("brief:@", "a", 1),
    ],
    "by the server API": [connect(), Api("subscribe", {"channel": "map:@", "user": "ann@"}), set_key("map:@", "a", 1)],
    "and then by itself": [{"id": 1, "connect": {"token": user_token(subs={"map:@": {}})}}, read("map:@")],
}

CASES = [
    *table("map", reading),
    *table("map recovery", recovering),
    *table("map write", writing),
    *table("map API", asking),
    *table("map served", served),
]
