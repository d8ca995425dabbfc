"""Plays one case against one server, and records the replies step by step."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import urllib.parse
from dataclasses import dataclass, field

import aiohttp
import websockets

import wire
from servers import KEY, SECRET

# How long a server may take with replies, and for how long nothing must arrive before a step is over.
ANSWER_SECONDS_MAX = 3
QUIET_SECONDS = 0.3
QUIET_SECONDS_WHEN_TOLD = 0.05


@dataclass
class Case:
    """Steps to play in turn. `@` in any text becomes a text unique to the case, so that all cases can share a server."""

    name: str
    steps: list
    profile: str = "main"


@dataclass
class Open:
    """Opens the connection `link`. Without this step, the first frame opens a link as a WebSocket with JSON."""

    link: str
    transport: str = "websocket"
    protobuf: bool = False
    query: str = ""
    subprotocols: tuple = ()
    headers: dict = field(default_factory=dict)
    frame: object = None
    method: str = "POST"
    answers_pings: bool = True
    shows_pings: bool = False


@dataclass
class Send:
    """Sends one frame on `link`: a list of commands (dicts, or literal texts), or a whole frame as text or bytes."""

    link: str
    frame: object


@dataclass
class Api:
    """Calls the server API."""

    method: str
    params: object


@dataclass
class Http:
    """Sends any HTTP request."""

    method: str
    path: str
    body: object = None
    headers: dict = field(default_factory=dict)
    key: str | None = KEY


@dataclass
class Wait:
    seconds: float


@dataclass
class Leave:
    link: str


@dataclass
class Token:
    """A JWT that is created when it is used: its times are in seconds from that moment."""

    claims: dict
    secret: str = SECRET
    algorithm: str = "HS256"
    damage: object = None

    def text(self, resolve):
        claims = resolve(dict(self.claims))
        for name in ("exp", "nbf", "iat", "expire_at"):
            if isinstance(claims.get(name), int) and claims[name] != 0:
                claims[name] += int(time.time())
        parts = [{"alg": self.algorithm, "typ": "JWT"}, claims]
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(self.algorithm)
        signature = hmac.new(self.secret.encode(), signed.encode(), digest).digest() if digest else b""
        text = f"{signed}.{base64url(signature)}"
        return self.damage(text) if self.damage else text


class Epoch:
    """Stands for the epoch that was seen last."""


@dataclass
class Client:
    """Stands for the id of a link's client."""

    link: str


@dataclass
class Session:
    """Stands for the session of a link's client, if it is unidirectional or sends commands in separate requests."""

    link: str


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Link:
    """One connection: the events received, and methods to send."""

    def __init__(self, options):
        self.options = options
        self.events = []
        self.owed = set()
        self.closed = False
        self.changed = asyncio.Event()
        self.task = None
        self.partial = b""
        self.session = self.node = None
        self.came_last = time.monotonic()

    def note(self, kind, what):
        self.events.append((kind, what))
        self.came_last = time.monotonic()
        if kind == "closed":
            self.closed = True
            self.owed.clear()

    async def take(self, message):
        if message == {}:
            if self.options.shows_pings:
                self.note("message", message)
            if self.options.answers_pings and not self.options.transport.startswith("uni"):
                await self.send([{}])
            return
        self.owed.discard(message.get("id"))
        connected = message.get("connect") or {}
        self.session, self.node = connected.get("session", self.session), connected.get("node", self.node)
        self.note("message", message)

    async def open(self, server, session):
        self.http = session
        base = f"127.0.0.1:{server.port}"
        path = f"/connection/{self.options.transport}{self.options.query}"
        if "websocket" in self.options.transport:
            try:
                self.socket = await websockets.connect(
                    f"ws://{base}{path}",
                    subprotocols=[*self.options.subprotocols] or None,
                    additional_headers=self.options.headers,
                    proxy=None,
                    compression=None,
                    ping_interval=None,
                    max_size=None,
                    user_agent_header=None,
                )
            except websockets.InvalidStatus as error:
                self.note("closed", ["refused", error.response.status_code])
                return
            if self.options.subprotocols:
                self.note("message", {"subprotocol": self.socket.subprotocol})
            self.task = asyncio.create_task(self.read_socket())
            if self.options.frame is not None:
                await self.send(self.options.frame)
            return
        self.base = base
        frame = self.options.frame
        self.expect(frame)
        body, query = self.pack(frame), {}
        headers = dict(self.options.headers)
        if self.options.protobuf:
            headers["Content-Type"] = "application/octet-stream"
        if self.options.method == "GET" and frame is not None:
            path += "?" + urllib.parse.urlencode({"cf_connect": body})
            body = None
        timeout = aiohttp.ClientTimeout(total=60)
        self.task = asyncio.create_task(self.read_response(f"http://{base}{path}", headers, body, timeout))

    def pack(self, frame):
        if frame is None or isinstance(frame, (str, bytes)):
            return frame
        if self.options.protobuf:
            return wire.protobuf_frame(frame)
        return wire.json_frame(frame)

    def expect(self, frame):
        if isinstance(frame, list):
            for command in frame:
                if isinstance(command, dict) and isinstance(command.get("id"), int):
                    self.owed.add(command["id"])

    async def send(self, frame):
        if self.closed:
            return
        self.expect(frame)
        payload = self.pack(frame)
        if "websocket" in self.options.transport:
            try:
                await self.socket.send(payload)
            except websockets.ConnectionClosed:
                pass
            return
        if self.options.protobuf:
            body = wire.encode("EmulationRequest", {"node": self.node, "session": self.session, "data": payload})
            headers = {"Content-Type": "application/octet-stream"}
        else:
            body = json.dumps({"session": self.session, "node": self.node, "data": payload})
            headers = {"Content-Type": "application/json"}
        async with self.http.post(f"http://{self.base}/emulation", data=body, headers=headers) as response:
            if response.status != 204:
                self.note("message", {"emulation": response.status})

    async def read_socket(self):
        try:
            async for payload in self.socket:
                if isinstance(payload, bytes):
                    messages, _ = wire.read_protobuf(payload, "Push" if self.is_uni() else "Reply")
                else:
                    messages = wire.read_json(payload)
                for message in messages:
                    await self.take(message)
        except websockets.ConnectionClosed:
            pass
        self.note("closed", [self.socket.close_code, self.socket.close_reason])

    async def read_response(self, url, headers, body, timeout):
        try:
            async with self.http.request(
                self.options.method, url, data=body, headers=headers, timeout=timeout
            ) as response:
                self.note("message", {"status": response.status, "type": response.headers.get("Content-Type")})
                text = ""
                async for chunk in response.content.iter_any():
                    if response.status != 200:
                        continue
                    if self.options.protobuf:
                        messages, self.partial = wire.read_protobuf(
                            self.partial + chunk, "Push" if self.is_uni() else "Reply"
                        )
                    else:
                        text += chunk.decode()
                        *lines, text = text.split("\n")
                        messages = self.read_lines(lines)
                    for message in messages:
                        await self.take(message)
        except aiohttp.ClientError as error:
            self.note("closed", [type(error).__name__])
            return
        self.note("closed", ["end of the response"])

    def read_lines(self, lines):
        if "sse" in self.options.transport:
            lines = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line.strip()]

    def is_uni(self):
        return self.options.transport.startswith("uni")

    async def leave(self):
        if self.task is None:
            return
        if "websocket" in self.options.transport:
            await self.socket.close()
        else:
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Run:
    def __init__(self, server, session, case, unique):
        self.server, self.session, self.case, self.unique = server, session, case, unique
        self.links = {}
        self.clients = {}
        self.epoch = ""
        self.answers = []

    async def play(self, counts):
        outcomes = []
        try:
            for index, step in enumerate(self.case.steps):
                await asyncio.wait_for(self.do(step), 20)
                await self.settle(counts[index] if counts else None)
                outcomes.append(self.taken())
        finally:
            await asyncio.gather(*(link.leave() for link in self.links.values()), return_exceptions=True)
        return outcomes

    async def do(self, step):
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Open):
            await self.open(step)
        elif isinstance(step, Leave):
            await self.links[step.link].leave()
        elif isinstance(step, Api):
            await self.request(Http("POST", f"/api/{step.method}", step.params))
        elif isinstance(step, Http):
            await self.request(step)
        else:
            send = step if isinstance(step, Send) else Send("a", step)
            if send.link not in self.links:
                await self.open(Open(send.link))
            frame = [send.frame] if isinstance(send.frame, dict) else send.frame
            await self.links[send.link].send(self.resolve(frame))

    async def open(self, step):
        step = Open(**{name: self.resolve(getattr(step, name)) for name in step.__dataclass_fields__})
        if isinstance(step.frame, dict):
            step.frame = [step.frame]
        link = Link(step)
        self.links[step.link] = link
        await link.open(self.server, self.session)

    async def request(self, step):
        headers = dict(step.headers)
        if step.key is not None:
            headers["X-API-Key"] = step.key
        body = self.resolve(step.body)
        if not isinstance(body, (str, bytes, type(None))):
            body = json.dumps(body)
        url = f"http://127.0.0.1:{self.server.port}{self.resolve(step.path)}"
        async with self.session.request(step.method, url, data=body, headers=headers, allow_redirects=False) as response:
            text = await response.text()
        try:
            body = json.loads(text)
            self.look_for_epoch(body)
        except ValueError:
            # Apart from JSON, only bodies with lines of JSON say more than the status.
            body = [json.loads(line) for line in text.splitlines()] if text.startswith("{") else None
        self.answers.append({"status": response.status, "body": body})

    async def settle(self, counts):
        """Waits for the replies to all ids and, with `counts`, for that many events on each link."""
        begun = time.monotonic()
        quiet = QUIET_SECONDS_WHEN_TOLD if counts is not None else QUIET_SECONDS
        while True:
            now = time.monotonic()
            if counts is not None:
                missing = any(len(self.links[link].events) < count for link, count in counts.items() if link in self.links)
                missing = missing or any(link.owed for link in self.links.values())
            else:
                missing = any(link.owed for link in self.links.values())
            last = max([begun, *(link.came_last for link in self.links.values())])
            if (not missing and now - last >= quiet) or now - begun > ANSWER_SECONDS_MAX:
                break
            await asyncio.sleep(0.01)
        for link in self.links.values():
            link.owed.clear()
            for _, what in link.events:
                self.look_for_epoch(what)
        for name, link in self.links.items():
            for kind, what in link.events:
                if kind == "message" and isinstance(what, dict):
                    connected = what.get("connect") or (what.get("push") or {}).get("connect") or {}
                    if "client" in connected:
                        self.clients[name] = connected["client"]

    def look_for_epoch(self, what):
        if isinstance(what, dict):
            for key, value in what.items():
                if key == "epoch" and value:
                    self.epoch = value
                else:
                    self.look_for_epoch(value)
        elif isinstance(what, list):
            for value in what:
                self.look_for_epoch(value)

    def taken(self):
        outcome = {name: link.events for name, link in self.links.items() if link.events}
        for link in self.links.values():
            link.events = []
        if self.answers:
            outcome["api"], self.answers = self.answers, []
        return outcome

    def resolve(self, what):
        if isinstance(what, str):
            return what.replace("@", self.unique)
        if isinstance(what, Token):
            return what.text(self.resolve)
        if isinstance(what, Client):
            return self.clients.get(what.link, "")
        if isinstance(what, Session):
            return self.links[what.link].session
        if what is Epoch:
            return self.epoch
        if isinstance(what, dict):
            return {self.resolve(key): self.resolve(value) for key, value in what.items()}
        if isinstance(what, (list, tuple)):
            return [self.resolve(value) for value in what]
        return what
