"""Encodes commands and decodes replies: JSON lines, and Protobuf with the field numbers of the protocol's schema."""

import json

# Message: field → (number, kind). A kind is a scalar, the name of a message, [kind] for a list, or {kind} for a map with text keys.
SCHEMA = {
    "Command": {
        "id": (1, "uint"),
        "connect": (4, "ConnectRequest"),
        "subscribe": (5, "SubscribeRequest"),
        "unsubscribe": (6, "ChannelRequest"),
        "publish": (7, "PublishRequest"),
        "presence": (8, "ChannelRequest"),
        "presence_stats": (9, "ChannelRequest"),
        "history": (10, "HistoryRequest"),
        "ping": (11, "Empty"),
        "send": (12, "Data"),
        "rpc": (13, "RpcRequest"),
        "refresh": (14, "RefreshRequest"),
        "sub_refresh": (15, "SubRefreshRequest"),
    },
    "ConnectRequest": {
        "token": (1, "text"),
        "data": (2, "bytes"),
        "subs": (3, ("map", "SubscribeRequest")),
        "name": (4, "text"),
        "version": (5, "text"),
    },
    "SubscribeRequest": {
        "channel": (1, "text"),
        "token": (2, "text"),
        "recover": (3, "bool"),
        "epoch": (6, "text"),
        "offset": (7, "uint"),
        "data": (8, "bytes"),
        "positioned": (9, "bool"),
        "recoverable": (10, "bool"),
        "join_leave": (11, "bool"),
        "delta": (12, "text"),
        "tf": (13, "FilterNode"),
        "flag": (14, "uint"),
        "type": (15, "uint"),
    },
    "FilterNode": {
        "op": (1, "text"),
        "key": (2, "text"),
        "cmp": (3, "text"),
        "val": (4, "text"),
        "vals": (5, ("list", "text")),
        "nodes": (6, ("list", "FilterNode")),
    },
    "ChannelRequest": {"channel": (1, "text")},
    "PublishRequest": {"channel": (1, "text"), "data": (2, "bytes")},
    "HistoryRequest": {"channel": (1, "text"), "limit": (7, "int"), "since": (8, "StreamPosition"), "reverse": (9, "bool")},
    "StreamPosition": {"offset": (1, "uint"), "epoch": (2, "text")},
    "Data": {"data": (1, "bytes")},
    "RpcRequest": {"data": (1, "bytes"), "method": (2, "text")},
    "RefreshRequest": {"token": (1, "text")},
    "SubRefreshRequest": {"channel": (1, "text"), "token": (2, "text")},
    "Empty": {},
    "EmulationRequest": {"node": (1, "text"), "session": (2, "text"), "data": (3, "raw")},
    "Reply": {
        "id": (1, "uint"),
        "error": (2, "Error"),
        "push": (4, "Push"),
        "connect": (5, "ConnectResult"),
        "subscribe": (6, "SubscribeResult"),
        "unsubscribe": (7, "Empty"),
        "publish": (8, "Empty"),
        "presence": (9, "PresenceResult"),
        "presence_stats": (10, "PresenceStatsResult"),
        "history": (11, "HistoryResult"),
        "ping": (12, "Empty"),
        "rpc": (13, "Data"),
        "refresh": (14, "RefreshResult"),
        "sub_refresh": (15, "Lifetime"),
    },
    "Error": {"code": (1, "uint"), "message": (2, "text"), "temporary": (3, "bool")},
    "Push": {
        "id": (1, "uint"),
        "channel": (2, "text"),
        "pub": (4, "Publication"),
        "join": (5, "Info"),
        "leave": (6, "Info"),
        "unsubscribe": (7, "Unsubscribe"),
        "message": (8, "Data"),
        "subscribe": (9, "Subscribe"),
        "connect": (10, "Connect"),
        "disconnect": (11, "Disconnect"),
        "refresh": (12, "Lifetime"),
    },
    "ClientInfo": {"user": (1, "text"), "client": (2, "text"), "conn_info": (3, "bytes"), "chan_info": (4, "bytes")},
    "Info": {"info": (1, "ClientInfo")},
    "Publication": {
        "data": (4, "bytes"),
        "info": (5, "ClientInfo"),
        "offset": (6, "uint"),
        "tags": (7, ("map", "text")),
        "delta": (8, "bool"),
        "time": (9, "uint"),
        "channel": (10, "text"),
        "key": (11, "text"),
        "removed": (12, "bool"),
        "epoch": (14, "text"),
        "version": (16, "uint"),
    },
    "Unsubscribe": {"code": (2, "uint"), "reason": (3, "text")},
    "Subscribe": {
        "recoverable": (1, "bool"),
        "epoch": (4, "text"),
        "offset": (5, "uint"),
        "positioned": (6, "bool"),
        "data": (7, "bytes"),
    },
    "Connect": {
        "client": (1, "text"),
        "version": (2, "text"),
        "data": (3, "bytes"),
        "subs": (4, ("map", "SubscribeResult")),
        "expires": (5, "bool"),
        "ttl": (6, "uint"),
        "ping": (7, "uint"),
        "pong": (8, "bool"),
        "session": (9, "text"),
        "node": (10, "text"),
        "time": (11, "uint"),
    },
    "Disconnect": {"code": (1, "uint"), "reason": (2, "text"), "reconnect": (3, "bool")},
    "Lifetime": {"expires": (1, "bool"), "ttl": (2, "uint")},
    "ConnectResult": {
        "client": (1, "text"),
        "version": (2, "text"),
        "expires": (3, "bool"),
        "ttl": (4, "uint"),
        "data": (5, "bytes"),
        "subs": (6, ("map", "SubscribeResult")),
        "ping": (7, "uint"),
        "pong": (8, "bool"),
        "session": (9, "text"),
        "node": (10, "text"),
        "time": (11, "uint"),
    },
    "RefreshResult": {"client": (1, "text"), "version": (2, "text"), "expires": (3, "bool"), "ttl": (4, "uint")},
    "SubscribeResult": {
        "expires": (1, "bool"),
        "ttl": (2, "uint"),
        "recoverable": (3, "bool"),
        "epoch": (6, "text"),
        "publications": (7, ("list", "Publication")),
        "recovered": (8, "bool"),
        "offset": (9, "uint"),
        "positioned": (10, "bool"),
        "data": (11, "bytes"),
        "was_recovering": (12, "bool"),
        "delta": (13, "bool"),
        "id": (14, "uint"),
        "type": (15, "uint"),
        "phase": (16, "uint"),
    },
    "PresenceResult": {"presence": (1, ("map", "ClientInfo"))},
    "PresenceStatsResult": {"num_clients": (1, "uint"), "num_users": (2, "uint")},
    "HistoryResult": {"publications": (1, ("list", "Publication")), "epoch": (2, "text"), "offset": (3, "uint")},
}


def json_frame(commands):
    return "\n".join(command if isinstance(command, str) else json.dumps(command) for command in commands)


def protobuf_frame(commands):
    parts = [encode("Command", command) for command in commands]
    return b"".join(varint(len(part)) + part for part in parts)


def read_json(payload):
    return [json.loads(line) for line in payload.split("\n") if line.strip()]


def read_protobuf(payload, message="Reply"):
    """Returns the complete messages, and the bytes of an incomplete one."""
    messages = []
    while payload:
        try:
            length, begin = read_varint(payload, 0)
        except IndexError:
            break
        if len(payload) < begin + length:
            break
        messages.append(decode(message, payload[begin : begin + length]))
        payload = payload[begin + length :]
    return messages, payload


def encode(message, fields):
    out = b""
    for name, value in fields.items():
        number, kind = SCHEMA[message][name]
        if isinstance(kind, tuple) and kind[0] == "list":
            out += b"".join(one(number, kind[1], item) for item in value)
        elif isinstance(kind, tuple):
            for key, item in value.items():
                out += one(number, "raw", one(1, "text", key) + one(2, kind[1], item))
        else:
            out += one(number, kind, value)
    return out


def one(number, kind, value):
    if kind in ("uint", "int", "bool"):
        return varint(number << 3) + varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF)
    if kind == "text":
        value = value.encode()
    elif kind == "bytes":
        value = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    elif kind != "raw":
        value = encode(kind, value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def decode(message, payload):
    fields, at = {}, 0
    names = {number: (name, kind) for name, (number, kind) in SCHEMA[message].items()}
    while at < len(payload):
        tag, at = read_varint(payload, at)
        name, kind = names.get(tag >> 3, (f"field {tag >> 3} of {message}", "raw"))
        value, at = read_varint(payload, at)
        if tag & 7 == 2:
            value, at = payload[at : at + value], at + value
        if isinstance(kind, tuple) and kind[0] == "list":
            fields.setdefault(name, []).append(plain(kind[1], value))
        elif isinstance(kind, tuple):
            entry = decode_entry(kind[1], value)
            fields.setdefault(name, {}).update(entry)
        else:
            fields[name] = plain(kind, value)
    return fields


def decode_entry(kind, payload):
    key, item, at = "", plain(kind, b""), 0
    while at < len(payload):
        tag, at = read_varint(payload, at)
        length, at = read_varint(payload, at)
        value, at = payload[at : at + length], at + length
        if tag >> 3 == 1:
            key = value.decode()
        else:
            item = plain(kind, value)
    return {key: item}


def plain(kind, value):
    if kind in ("uint", "int"):
        return value
    if kind == "bool":
        return bool(value)
    if kind == "text":
        return value.decode()
    if kind in ("bytes", "raw"):
        return value
    return decode(kind, value)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def read_varint(payload, at):
    value = shift = 0
    while True:
        byte = payload[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
