"""Every difference from the reference that is left, with its reason. Any other is a failure, and so is one that is gone."""

from dataclasses import dataclass, field

BEGIN = "<!-- Differences: written by tests/differential. -->"
END = "<!-- End of the differences. -->"


@dataclass
class Everywhere:
    """A difference that shows in many cases: `even_out` takes it away from what either side said."""

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
    """`change` of every object, from the inside out."""

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
    """The body of an answer that is no success."""
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
    """The epoch of a publication in a reply, or of the first one where patches are sent."""
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
        "an HTTP answer of 400 and more has a body",
        "it says why, for people",
        walked(without_why),
    ),
    Everywhere(
        "`info` of the server API has no `metrics` and `process`",
        "they are at `/metrics`, where tools look for them",
        walked(without_metrics),
    ),
    Everywhere(
        "the first publication of a stream names its epoch in pushes alone, but in all of them, patched or not",
        "a reply names the epoch itself; who takes patches needs it as much as others",
        walked(without_epoch_within),
    ),
    Everywhere(
        "entries of `map_read_state` and `map_read_stream` have a `time` only where `publication_time` is set",
        "it is kept where somebody has asked for it, as that of other publications",
        walked(without_time_of_entries),
    ),
    Everywhere(
        "a refresh reply names the client and the version",
        "the protocol's schema has both",
        walked(without_client),
    ),
    Everywhere(
        "the message of error 104 is “method not found” in the server API, too",
        "it is one error, with one message",
        walked(without_message_of_104),
    ),
    Everywhere(
        "a connect result names the `node` where commands do not come apart, too",
        "who looks for a fault has something to ask for",
        walked(without_node),
    ),
    Everywhere(
        "commands of one frame that do not depend on each other are answered as they are done: what is refused at once first,"
        " subscriptions in any order",
        "no command waits for one that has nothing to do with it; libraries go by the `id`",
        walked(as_they_are_done),
    ),
    Everywhere(
        "a message of an error of the server API goes on behind a colon",
        "it says what is wrong with the request; the code and what stands before the colon are the same",
        walked(without_details),
    ),
]

NAMES = "names are printable ASCII without spaces, unless `session.channel_unicode` allows more: they stand in logs and URLs"
PAGES = "a page that may not connect is refused on all transports, and is not only kept from reading what it gets"
STRICT = "JSON is read strictly: what is passed over in silence is what somebody meant"
NOBODY = "a field that was forgotten: there it means all anonymous clients"

LISTED = [
    Listed(
        "a map subscription by a token says when it expires",
        "its client renews the token in time, as that of any other subscription",
        ["map: with a token"],
    ),
    Listed(
        "`map_stats` of nothing says 0; there nothing",
        "whoever asks for a number is given one",
        ["map API: clearing"],
    ),
    Listed(
        "a removal of a key in a channel that has nothing names the channel's epoch",
        "every answer to a change does",
        ["map API: removing what is not there"],
    ),
    Listed(
        "`map_read_stream` of a channel without a stream is refused (108); there it is empty",
        "nothing was lost there: nothing is kept",
        ["map API: the stream where there is none"],
    ),
    Listed(
        "subscribers of a map that is cleared are told to read anew; there they are not told",
        "what they have is gone",
        ["map API: clearing under subscribers"],
    ),
    Listed(
        "a user in a token may be a number: its digits",
        "many issuers number their users",
        ["token: with a sub that is a number"],
    ),
    Listed(
        "an `info` of null is none",
        "null is a value nowhere but in `data`",
        ["token: with info that is null"],
    ),
    Listed(
        "`b64info` that is no base64 makes a token invalid (3500; there error 100), as does `meta` that is no object"
        " (there it is passed over)",
        "nothing that was meant is dropped without a word, and to try again does not help",
        ["token: with b64info that is none", "token: with meta that is a text"],
    ),
    Listed(
        "where `auth.insecure` is on, a token that is given still counts, and private channels are open",
        "what a token says of its user can be tried out; everything is what the option opens",
        ["insecure: connect with a good token", "insecure: subscribe to a private channel"],
    ),
    Listed(
        "several commands in one object or line, an `id` that comes twice, and names of fields in capitals, close with 3501;"
        " there one counts",
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
        "a command after a connect that was refused closes with 3501; there it is never answered",
        "the client learns that it waits in vain",
        ["before connect: after a refused connect", "before connect: connect again after a refused one"],
    ),
    Listed(
        "1009 has a reason",
        "it says what is wrong",
        ["message: of more bytes than allowed"],
    ),
    Listed(
        "a payload nested deeper than 128 levels is refused (107)",
        "many subscribers' parsers could not read it",
        ["message: with a payload nested too deeply"],
    ),
    Listed(
        "`:name` is in a namespace whose name is empty, which there is none of (102)",
        "the namespace is what stands before the boundary",
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
        "a channel that names its users is open to them alone, and if `allow_user_limited` says so",
        "a name that promises privacy is kept private, also where the option was forgotten",
        ["channel: for a user, where all may", "channel: for another user, where all may"],
    ),
    Listed(
        "what `allow_…_for_client` allows without being subscribed, it does not allow in private channels",
        "whoever could not subscribe there could read and write all the same",
        [
            "may: anybody ask for publish in a private channel",
            "may: anybody ask for history in a private channel",
            "may: anybody ask for presence in a private channel",
            "may: anybody ask for presence_stats in a private channel",
        ],
    ),
    Listed(
        "an unknown `type` of a subscription is error 107; there it closes with 3004",
        "it is the command that is wrong, not the connection",
        ["subscribe: with an unknown type"],
    ),
    Listed(
        "a subscription token for the channel of no name is one for another channel (3500; there 103)",
        "one mistake has one code",
        ["subscription token: with an empty channel"],
    ),
    Listed(
        "a bad token for `sub_refresh` is error 103 (there 3500 closes the connection), an expired one 109 (there success)",
        "one subscription is at fault, and its client fetches a new token upon 109",
        ["sub_refresh: with an expired token", "sub_refresh: with a token that is none"],
    ),
    Listed(
        "a subscription ends when its time and the delay are over; there when it is looked at next, every 27 seconds",
        "what has ended has ended",
        ["expiry of a subscription: ends it"],
    ),
    Listed(
        "history before a position beyond the top, newest first, is all there is; there nothing",
        "all of it stands before that position",
        ["history: since beyond the top, newest first"],
    ),
    Listed(
        "`recover` alone asks for a subscription that can recover; there `recoverable` must say so, too",
        "whoever has a position got it from such a subscription",
        ["recovery: where it must be asked for"],
    ),
    Listed(
        "a client that would rather fail than lose something (flag 2) gets error 112 where there is no recovery at all, too",
        "nothing was recovered there either",
        ["recovery: where there is none, that would rather fail"],
    ),
    Listed(
        "with the newest publication alone, `offset` is the one before it; there what the client sent, or nothing",
        "the reply describes the publications in it: they begin behind its offset",
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
        "after a recovery without a publication in it, the next one is whole; there a patch",
        "whether the client still has the payload before it, nobody knows",
        ["delta: in recovery of nothing"],
    ),
    Listed(
        "a token that subscribes to a channel that cannot be is refused with its error; there that channel is passed over",
        "nothing that was meant is dropped without a word",
        ["server's subscription: to an empty channel"],
    ),
    Listed(
        "`recover_since` of the server API gives the client what it missed, as pushes; there its position alone",
        "what was asked for is what is missing",
        ["served: subscribe with recover_since"],
    ),
    Listed(
        "clients are not told that the server has subscribed them where they were, or unsubscribed them where they were not",
        "nothing has changed for them",
        [
            "served: subscribe twice",
            "served: subscribe of one that is subscribed",
            "served: unsubscribe of one that is not subscribed",
        ],
    ),
    Listed(
        "`unsubscribe` of the server API without a channel is refused (107)",
        "rarely meant; there the client is told of the end of a channel without a name",
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
        "a connect request of a client that only listens, and that cannot be read, is answered with a `disconnect`; there with 400,"
        " or over WebSockets with a close alone",
        "these clients are told why they are closed in one way",
        ["uni_websocket: no JSON", "uni_http_stream: no JSON"],
    ),
    Listed(
        "an empty body of an API request counts as `{}`; there 400",
        "methods without fields can be called without a body",
        ["API: with an empty body", "API: info with an empty body"],
    ),
    Listed(
        "an API request that is `null`, or in the older form has no method, is refused with 400; there 107 in the body",
        "neither can be read as a request",
        ["API: with a body that is null", "API: older form, without a method"],
    ),
    Listed(
        "`data` that is null is no data (107)",
        "libraries send it for a field that was forgotten",
        ["API: publish null"],
    ),
    Listed(
        "publications to channels that no client could name are refused (107)",
        NAMES,
        ["API: publish to a channel with letters beyond ASCII", "API: publish to a channel of 300 bytes"],
    ),
    Listed(
        "a broadcast without data is refused as a whole (107); there for each channel",
        "nothing of it can be done",
        ["API: broadcast without data"],
    ),
    Listed(
        "`subscribe`, `unsubscribe`, `disconnect` and `refresh` of neither a user nor a client are refused (107)",
        NOBODY,
        [
            "API: subscribe without a user",
            "API: unsubscribe without a user",
            "API: disconnect without a user",
            "API: refresh without a user",
        ],
    ),
    Listed(
        "a `disconnect` with a code that no client may get is refused (107)",
        "clients would not know what to do",
        ["API: disconnect with a code of 5"],
    ),
    Listed(
        "the answer to a batch of nothing has `replies`, without one in it; there nothing",
        "libraries look for the field",
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
    """How many there are of each kind, where there are more than anybody reads."""
    if len(cases) <= 6:
        return cases
    prefixes = [case.partition(":")[0] for case in cases]
    return [f"{prefix}: {prefixes.count(prefix)}" for prefix in dict.fromkeys(prefixes)]
