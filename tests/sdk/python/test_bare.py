"""Tests the bare endpoint with the library `websockets`."""

import asyncio

import websockets
from cent import InfoRequest, PublishRequest

from gateway import CONFIG, Gateway, token
from live import SECONDS_MAX, LiveTestCase

CHANNELS = """
[namespaces.news]
history_size = 10
history_ttl_s = 300
allow_recovery = true
allow_subscribe = true
allow_publish = true
[namespaces.heard]
allow_subscribe = true
[namespaces.shut]
"""


class Bare(LiveTestCase):
    def setUp(self):
        self.gateway = Gateway(CONFIG + CHANNELS)
        self.addCleanup(self.gateway.stop)
        self.header = {"Authorization": f"Bearer {token('ann')}"}

    async def asyncSetUp(self):
        self.api = self.api_of(self.gateway)

    def connect(self, channel, **options):
        options = {"additional_headers": self.header, "proxy": None, **options}
        return websockets.connect(f"ws://{self.gateway.address}/raw/{channel}", **options)

    async def listening(self, count):
        await self.eventually(lambda: self.api.info(InfoRequest()), lambda info: info.nodes[0].num_subs == count)

    async def hear(self, socket):
        return await asyncio.wait_for(socket.recv(), SECONDS_MAX)

    async def assert_closes(self, code, channel, **options):
        async with self.connect(channel, **options) as socket:
            with self.assertRaises(websockets.ConnectionClosed) as raised:
                await self.hear(socket)
            self.assertEqual(raised.exception.rcvd.code, code)

    async def test_text_and_bytes_come_out_as_they_went_in(self):
        async with self.connect("news:a") as one, self.connect("news:a", compression=None) as other:
            await self.listening(2)
            sent = ["hello", '{"a": [1, 2]}', bytes(range(256)), "", "x" * 50_000]
            for message in sent:
                await one.send(message)
            for socket in (one, other):
                self.assertEqual([await self.hear(socket) for _ in sent], sent)

    async def test_a_message_in_many_fragments_is_one_publication(self):
        async with self.connect("news:a") as socket:
            await self.listening(1)
            await socket.send(part for part in ("one ", "two ", "three"))
            self.assertEqual(await self.hear(socket), "one two three")

    async def test_a_ping_is_answered(self):
        async with self.connect("news:a") as socket:
            await asyncio.wait_for(await socket.ping(b"are you there"), SECONDS_MAX)

    async def test_a_token_can_travel_in_a_subprotocol(self):
        protocols = ["tidegate.raw", f"tidegate.token.{token('bob')}"]
        async with self.connect("news:a", additional_headers={}, subprotocols=protocols) as socket:
            self.assertEqual(socket.subprotocol, "tidegate.raw")
            await self.listening(1)
            await socket.send("hello")
            self.assertEqual(await self.hear(socket), "hello")

    async def test_refusals_are_closes_that_say_why(self):
        await self.assert_closes(3501, "news:a", additional_headers={})
        await self.assert_closes(3500, "news:a", additional_headers={"Authorization": "Bearer nonsense"})
        await self.assert_closes(3501, "nowhere:a")
        await self.assert_closes(3507, "shut:a")

    async def test_a_client_that_may_only_listen_is_closed_when_it_speaks(self):
        async with self.connect("heard:a") as socket:
            await self.listening(1)
            await self.api.publish(PublishRequest(channel="heard:a", data=7))
            self.assertEqual(await self.hear(socket), "7")
            await socket.send("me too")
            with self.assertRaises(websockets.ConnectionClosed) as raised:
                await self.hear(socket)
            self.assertEqual(raised.exception.rcvd.code, 3507)

    async def test_a_client_that_comes_back_with_a_position_gets_what_it_missed(self):
        for value in (1, 2, 3):
            published = await self.api.publish(PublishRequest(channel="news:a", data=value))
        async with self.connect(f"news:a?offset=1&epoch={published.epoch}") as socket:
            self.assertEqual([await self.hear(socket) for _ in range(2)], ["2", "3"])
        await self.assert_closes(3010, "news:a?offset=1&epoch=another")
