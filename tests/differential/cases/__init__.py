"""The cases: the frames and requests that are sent to both servers."""

from play import Api, Case, Token


def user_token(user="ann@", exp=3600, **claims):
    return Token({"sub": user, "exp": exp, **claims})


def connect(user="ann@", id=1, **fields):
    return {"id": id, "connect": {"token": user_token(user), **fields}}


def subscribe(channel, id=2, **fields):
    return {"id": id, "subscribe": {"channel": channel, **fields}}


def subscription_token(channel, user="ann@", exp=3600, **claims):
    return Token({"sub": user, "channel": channel, "exp": exp, **claims})


def command(name, id=3, **fields):
    return {"id": id, name: fields}


def publish(channel, data, **fields):
    return Api("publish", {"channel": channel, "data": data, **fields})


def publish_several(channel, number, **fields):
    commands = [{"publish": {"channel": channel, "data": {"n": n}, **fields}} for n in range(1, number + 1)]
    return Api("batch", {"commands": commands})


def table(prefix, rows, profile="main"):
    return [Case(f"{prefix}: {name}", steps, profile) for name, steps in rows.items()]


def all_cases():
    from cases import access, channels, connecting, maps, reading, recovering, requests, serving, transports, validity

    parts = [connecting, validity, channels, access, reading, recovering, maps, serving, transports, requests]
    cases = [case for part in parts for case in part.CASES]
    names = [case.name for case in cases]
    doubles = {name for name in names if names.count(name) > 1}
    assert not doubles, doubles
    return cases
