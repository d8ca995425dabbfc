"""All known differences from the reference, each with its reason.

An unlisted difference fails the run, and so does a listed one that no longer occurs.
"""

from dataclasses import dataclass, field

BEGIN = "<!-- Differences: written by tests/differential. -->"
END = "<!-- End of the differences. -->"


@dataclass
class Everywhere:
    """A difference that occurs in many cases: `even_out` removes it from the replies of either side."""

    what: str
    reason: str
    even_out: object


@dataclass
class Listed:
    """A difference of single cases."""

    what: str
    reason: str
    cases: list = field(default_factory=list)


def walked(change):
    """Returns a function that applies `change` to every object, from the inside out."""

    def walk(value):
        if isinstance(value, dict):
            return change({name: walk(item) for name, item in value.items()})
        if isinstance(value, list):
            return [walk(item) for item in value]
        return value

    return walk


def without_node(value):
    connected = value.get("connect")
    if isinstance(connected, dict) and ("session" not in connected or "id" not in value):
        value["connect"] = {name: item for name, item in connected.items() if name != "node"}
    return value


def as_they_are_done(value):
    if isinstance(value.get("replies"), list):
        replies = value["replies"]
        refused = [reply for reply in replies if "error" in reply]
        subscribed = sorted((reply for reply in replies if "subscribe" in reply), key=lambda reply: reply["id"])
        others = [reply for reply in replies if "error" not in reply and "subscribe" not in reply]
        value["replies"] = [*refused, *subscribed, *others]
    return value


def without_details(value):
    error = value.get("error")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        value["error"] = {**error, "message": error["message"].partition(":")[0]}
    if "code" in value and isinstance(value.get("message"), str):
        value["message"] = value["message"].partition(":")[0]
    return value


def without_why(value):
    """Removes the body of an error response."""
    if value.get("status", 200) >= 400 and "body" in value:
        value["body"] = None
    if value.get("status", 200) >= 400 and "type" in value:
        value["type"] = None
    return value


def without_metrics(value):
    if isinstance(value.get("nodes"), list):
        kept = ("uid", "version", "num_clients", "num_users", "num_subs", "num_channels", "uptime")
        value["nodes"] = [{name: "<there>" for name in kept if name in node} for node in value["nodes"]]
    return value


def without_epoch_within(value):
    """Removes the epoch of publications in a reply, and of pushes that may be deltas."""
    for publication in [*(value.get("publications") or []), *(value.get("state") or [])]:
        publication.pop("epoch", None)
    publication = value.get("pub")
    if isinstance(publication, dict) and isinstance(publication.get("data"), str):
        publication.pop("epoch", None)
    return value


def without_time_of_entries(value):
    for entry in value.get("entries") or []:
        entry.pop("time", None)
    return value


def without_client(value):
    if isinstance(refreshed := value.get("refresh"), dict):
        value["refresh"] = {name: item for name, item in refreshed.items() if name not in ("client", "version")}
    return value


def without_message_of_104(value):
    if value.get("code") == 104:
        value["message"] = "<method not found>"
    return value


EVERYWHERE = [
    Everywhere(
        "an HTTP response with a status of 400 or above has a body",
        "the body tells people the reason",
        walked(without_why),
    ),
    Everywhere(
        "`info` of the server API has no `metrics` and `process`",
        "tools find these values at `/metrics`",
        walked(without_metrics),
    ),
    Everywhere(
        "the first publication of a stream names its epoch in every push, delta or not, but not in replies",
        "a reply names the epoch itself, and subscribers with deltas need the epoch as much as others",
        walked(without_epoch_within),
    ),
    Everywhere(
        "entries of `map_read_state` and `map_read_stream` have a `time` only where `publication_time` is set",
        "as with other publications, the time is stored only where the configuration asks for it",
        walked(without_time_of_entries),
    ),
    Everywhere(
        "a refresh reply names the client and the version",
        "the protocol's schema has both",
        walked(without_client),
    ),
    Everywhere(
        "the message of error 104 is “method not found” in the server API, too",
        "one error has one message",
        walked(without_message_of_104),
    ),
    Everywhere(
        "a connect result names the `node` on every transport, not only where commands come in separate requests",
        "a user who reports a problem can say which node served the connection",
        walked(without_node),
    ),
    Everywhere(
        "independent commands of one frame are answered as they complete: immediate refusals first, subscriptions in any order",
        "no command waits for an unrelated one; libraries match replies by `id`",
        walked(as_they_are_done),
    ),
    Everywhere(
        "an error message of the server API has details after a colon",
        "the details tell what is wrong with the request; the code and the text before the colon are the same",
        walked(without_details),
    ),
]

NAMES = "names appear in logs and URLs, so they are printable ASCII without spaces unless `session.channel_unicode` allows more"
PAGES = "a page that may not connect is refused on all transports; the browser alone would only hide the response from it"
STRICT = "JSON is parsed strictly, so that nothing that a client sends is silently ignored"
NOBODY = "the field was probably forgotten; the reference applies the command to all anonymous clients"

LISTED = [
    Listed(
        "a map subscription with a token tells when it expires",
        "the client can renew the token in time, as for any other subscription",
        ["map: with a token"],
    ),
    Listed(
        "`map_stats` of an empty channel returns 0; in the reference, the field is absent",
        "a request for a number is answered with a number",
        ["map API: clearing"],
    ),
    Listed(
        "the result of removing a key from an empty channel names the channel's epoch",
        "the result of every change names the epoch",
        ["map API: removing what is not there"],
    ),
    Listed(
        "`map_read_stream` of a channel without a stream is refused (108); in the reference, the result is empty",
        "an empty result would suggest a stream without changes",
        ["map API: the stream where there is none"],
    ),
    Listed(
        "subscribers of a map that is cleared are told to read the state again; in the reference, they are not told",
        "the state that the subscribers hold no longer exists",
        ["map API: clearing under subscribers"],
    ),
    Listed(
        "the user in a token may be a number, which stands for its digits",
        "many token issuers have numeric user ids",
        ["token: with a sub that is a number"],
    ),
    Listed(
        "an `info` of null counts as absent",
        "null is a value only in `data`",
        ["token: with info that is null"],
    ),
    Listed(
        "a token is invalid (3500) if its `b64info` is not base64 (in the reference, error 100) or its `meta` is not an object"
        " (in the reference, it is ignored)",
        "nothing is dropped silently, and a retry with the same token cannot succeed",
        ["token: with b64info that is none", "token: with meta that is a text"],
    ),
    Listed(
        "with `auth.insecure`, a token in the connect command still applies, and private channels are open",
        "tokens can be tested with the option on, and the option opens everything",
        ["insecure: connect with a good token", "insecure: subscribe to a private channel"],
    ),
    Listed(
        "several commands in one object or line, a duplicate `id`, and field names in capitals close the connection with 3501;"
        " in the reference, one of them counts",
        STRICT,
        [
            "frame: two commands in one object",
            "frame: an id that comes twice in one object",
            "frame: two commands in a line",
            "frame: two commands with a space between",
            "frame: with names in capitals",
        ],
    ),
    Listed(
        "a command after a refused connect closes the connection with 3501; in the reference, it is never answered",
        "the client learns that no reply will come",
        ["before connect: after a refused connect", "before connect: connect again after a refused one"],
    ),
    Listed(
        "a close with 1009 has a reason",
        "the reason tells what is wrong",
        ["message: of more bytes than allowed"],
    ),
    Listed(
        "a payload nested deeper than 128 levels is refused (107)",
        "the parsers of many subscribers could not read such a payload",
        ["message: with a payload nested too deeply"],
    ),
    Listed(
        "`:name` belongs to a namespace with an empty name, which does not exist (102)",
        "the namespace is the text before the boundary",
        ["channel: with an empty namespace"],
    ),
    Listed(
        "spaces, line breaks and control characters in a channel's name are refused (107)",
        NAMES,
        [
            "channel: with a space",
            "channel: with a control character",
            "channel: with a line break",
            "channel: with DEL",
        ],
    ),
    Listed(
        "a channel that names its users is open only to them, and only with `allow_user_limited`",
        "a channel whose name promises privacy stays private even if the option was forgotten",
        ["channel: for a user, where all may", "channel: for another user, where all may"],
    ),
    Listed(
        "`allow_…_for_client` does not give clients without a subscription access to private channels",
        "a client that may not subscribe there could otherwise read and write",
        [
            "may: anybody ask for publish in a private channel",
            "may: anybody ask for history in a private channel",
            "may: anybody ask for presence in a private channel",
            "may: anybody ask for presence_stats in a private channel",
        ],
    ),
    Listed(
        "an unknown `type` of a subscription is error 107; in the reference, it closes the connection with 3004",
        "the command is wrong, not the connection",
        ["subscribe: with an unknown type"],
    ),
    Listed(
        "a subscription token with an empty channel is treated as one for another channel (3500; in the reference, 103)",
        "the same mistake has the same code",
        ["subscription token: with an empty channel"],
    ),
    Listed(
        "an invalid token for `sub_refresh` is error 103 (in the reference, a close with 3500), an expired one is 109"
        " (in the reference, success)",
        "only one subscription is affected, and clients fetch a new token after 109",
        ["sub_refresh: with an expired token", "sub_refresh: with a token that is none"],
    ),
    Listed(
        "a subscription ends when its lifetime and the delay are over; in the reference, at the next check, every 27 seconds",
        "an expired subscription should not receive anything",
        ["expiry of a subscription: ends it"],
    ),
    Listed(
        "history before a position beyond the top, newest first, is the whole history; in the reference, it is empty",
        "all publications precede that position",
        ["history: since beyond the top, newest first"],
    ),
    Listed(
        "`recover` alone makes the subscription recoverable; the reference requires `recoverable`, too",
        "a client with a position got it from a recoverable subscription",
        ["recovery: where it must be asked for"],
    ),
    Listed(
        "a client that prefers an error to a gap (flag 2) gets error 112 also where the channel has no recovery",
        "nothing was recovered in that case either",
        ["recovery: where there is none, that would rather fail"],
    ),
    Listed(
        "when only the newest publication is recovered, `offset` is the one before it; in the reference, it is what the"
        " client sent, or absent",
        "the publications in a reply follow its offset",
        [
            "newest alone: with recover and no position",
            "newest alone: from an old position",
            "newest alone: of another epoch",
            "newest alone: by itself",
            "newest alone: that would rather fail",
            "server's subscription: with the newest alone",
        ],
    ),
    Listed(
        "after a recovery without publications, the next publication is a full payload; in the reference, it is a delta",
        "the server cannot know whether the client still has the previous payload",
        ["delta: in recovery of nothing"],
    ),
    Listed(
        "a token that subscribes to an invalid channel is refused with that channel's error; in the reference, the channel is"
        " ignored",
        "nothing is dropped silently",
        ["server's subscription: to an empty channel"],
    ),
    Listed(
        "`recover_since` of the server API sends the client what it missed, as pushes; in the reference, only its position",
        "the caller asked for the missed publications",
        ["served: subscribe with recover_since"],
    ),
    Listed(
        "clients are not told when the server subscribes them to a channel that they are subscribed to, or unsubscribes them from"
        " one that they are not",
        "nothing has changed for the client",
        [
            "served: subscribe twice",
            "served: subscribe of one that is subscribed",
            "served: unsubscribe of one that is not subscribed",
        ],
    ),
    Listed(
        "`unsubscribe` of the server API without a channel is refused (107)",
        "the field was probably forgotten; in the reference, the client is unsubscribed from a channel without a name",
        ["served: unsubscribe of a user from all channels"],
    ),
    Listed(
        "a page of another origin gets 403 from event streams, HTTP streams and `/emulation`",
        PAGES,
        [
            "http_stream: from a page that may not",
            "sse: from a page that may not",
            "emulation: from a page that may not",
        ],
    ),
    Listed(
        "an invalid connect request of a unidirectional client is answered with a `disconnect`; in the reference, with 400, or"
        " over WebSockets only with a close",
        "unidirectional clients learn the reason in the same way in all cases",
        ["uni_websocket: no JSON", "uni_http_stream: no JSON"],
    ),
    Listed(
        "an empty body of an API request counts as `{}`; in the reference, 400",
        "methods without fields can be called without a body",
        ["API: with an empty body", "API: info with an empty body"],
    ),
    Listed(
        "an API request that is `null`, or has no method in the older form, is refused with 400; in the reference, with 107 in"
        " the body",
        "neither is a request",
        ["API: with a body that is null", "API: older form, without a method"],
    ),
    Listed(
        "`data` of null counts as absent (107)",
        "libraries send null for a forgotten field",
        ["API: publish null"],
    ),
    Listed(
        "publications to channels with names that clients cannot use are refused (107)",
        NAMES,
        ["API: publish to a channel with letters beyond ASCII", "API: publish to a channel of 300 bytes"],
    ),
    Listed(
        "a broadcast without data is refused as a whole (107); in the reference, for each channel",
        "it cannot succeed for any channel",
        ["API: broadcast without data"],
    ),
    Listed(
        "`subscribe`, `unsubscribe`, `disconnect` and `refresh` with neither a user nor a client are refused (107)",
        NOBODY,
        [
            "API: subscribe without a user",
            "API: unsubscribe without a user",
            "API: disconnect without a user",
            "API: refresh without a user",
        ],
    ),
    Listed(
        "a `disconnect` with a code that clients must not receive is refused (107)",
        "clients would not know how to react",
        ["API: disconnect with a code of 5"],
    ),
    Listed(
        "the result of an empty batch has an empty `replies`; in the reference, the field is absent",
        "libraries expect the field",
        ["API: batch of nothing", "API: batch without commands"],
    ),
]


def written_into(page):
    rows = [f"| {one.what} | {one.reason} | many |" for one in EVERYWHERE]
    rows += [f"| {one.what} | {one.reason} | {'; '.join(by_prefix(one.cases))} |" for one in LISTED]
    table = "\n".join([BEGIN, "", "| what differs | why | cases |", "| --- | --- | --- |", *rows, "", END])
    before, rest = page.split(BEGIN)
    return before + table + rest.split(END)[1]


def by_prefix(cases):
    """Lists up to six cases by name, and counts more by prefix."""
    if len(cases) <= 6:
        return cases
    prefixes = [case.partition(":")[0] for case in cases]
    return [f"{prefix}: {prefixes.count(prefix)}" for prefix in dict.fromkeys(prefixes)]
