"""Tests channels with centrifuge-python: publishing, history, presence, refusals, and recovery after a lost connection."""

import asyncio

from cent import InfoRequest, PublishRequest
from centrifuge import ReplyError, StreamPosition

from gateway import CONFIG, Gateway, token
from live import LiveTestCase
from relay import Relay

CHANNELS = """
[namespaces.news]
history_size = 10
history_ttl_s = 300
force_recovery = true
presence = true
allow_subscribe = true
allow_publish = true
allow_history = true
allow_presence = true
[namespaces.shut]
[session]
ping_interval_ms = 1000
pong_timeout_ms = 500
"""

# Short delays, because tests cut connections and wait for clients to reconnect.
SOON = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.2}


class ChannelTestCase(LiveTestCase):
    def setUp(self):
        self.gateway = Gateway(CONFIG + CHANNELS)
        self.addCleanup(self.gateway.stop)

    async def asyncSetUp(self):
        self.api = self.api_of(self.gateway)

    async def join(self, channel, user="ann", **options):
        """Subscribes, and returns the subscription and its events."""
        client, _ = await self.connect_to(self.gateway, token(user))
        subscription, events = await self.subscribe(client, channel, **options)
        await events.expect("subscribed")
        return subscription, events

    async def publish(self, channel, *values):
        for value in values:
            await self.api.publish(PublishRequest(channel=channel, data=value))

    async def publications(self, events, count):
        return [(await events.expect("publication")).pub for _ in range(count)]

    async def assert_code(self, code, call):
        with self.assertRaises(ReplyError) as raised:
            await call
        self.assertEqual(raised.exception.code, code)


class Channels(ChannelTestCase):
    async def test_what_one_client_publishes_reaches_all_and_says_who_it_was(self):
        hers, her_events = await self.join("news:a", "ann")
        _, his_events = await self.join("news:a", "bob")
        data = {"text": 'line\nbreak, "quotes" and ü', "list": [1, 2.5, None, {}]}
        await hers.publish(data)
        for events in (her_events, his_events):
            [publication] = await self.publications(events, 1)
            self.assertEqual((publication.data, publication.offset), (data, 1))
            self.assertEqual(publication.info.user, "ann")

    async def test_after_unsubscribing_nothing_arrives(self):
        client, _ = await self.connect_to(self.gateway, token("ann"))
        left, left_events = await self.subscribe(client, "news:left")
        _, kept_events = await self.subscribe(client, "news:kept")
        await kept_events.expect("subscribed")
        await left.unsubscribe()
        await left_events.expect("unsubscribed")
        await self.eventually(lambda: self.api.info(InfoRequest()), lambda info: info.nodes[0].num_subs == 1)
        await self.publish("news:left", 1)
        await self.publish("news:kept", 2)
        self.assertEqual([one.data for one in await self.publications(kept_events, 1)], [2])
        self.assertTrue(left_events.queue.empty())

    async def test_refusals_have_their_codes(self):
        client, _ = await self.connect_to(self.gateway, token("ann"))
        for channel, code in {"nowhere:a": 102, "shut:a": 103, "$news:a": 103}.items():
            _, events = await self.subscribe(client, channel)
            self.assertEqual((await events.expect("unsubscribed")).code, code, channel)
        plain, events = await self.subscribe(client, "plain:a")
        await events.expect("subscribed")
        await self.assert_code(108, plain.history(limit=1))
        await self.assert_code(108, plain.presence())
        await self.assert_code(103, plain.publish(1))
        await self.assert_code(108, client.rpc("anything", {}))

    async def test_history_answers_a_part_of_the_stream(self):
        news, _ = await self.join("news:a")
        await self.publish("news:a", *range(1, 13))
        top = await news.history()
        self.assertEqual((top.publications, top.offset), ([], 12))

        async def offsets(**options):
            return [one.offset for one in (await news.history(**options)).publications]

        self.assertEqual(await offsets(limit=-1), list(range(3, 13)))
        self.assertEqual(await offsets(limit=2, reverse=True), [12, 11])
        self.assertEqual(await offsets(limit=2, since=StreamPosition(5, top.epoch)), [6, 7])
        await self.assert_code(112, news.history(limit=1, since=StreamPosition(5, "another")))

    async def test_presence_counts_clients_and_users(self):
        news, _ = await self.join("news:a")
        await self.join("news:a")
        stats = await news.presence_stats()
        self.assertEqual((stats.num_clients, stats.num_users), (2, 1))
        self.assertEqual({info.user for info in (await news.presence()).clients.values()}, {"ann"})

    async def test_a_client_that_answers_pings_is_kept(self):
        client, events = await self.connect_to(self.gateway, token("ann"))
        await events.expect("connected")
        answered = asyncio.Queue()
        answer = client._handle_ping

        async def count():
            await answer()
            answered.put_nowait(None)

        client._handle_ping = count
        for _ in range(3):
            await asyncio.wait_for(answered.get(), 20)
        self.assertTrue(events.queue.empty())


class Recovery(ChannelTestCase):
    async def test_after_a_cut_everything_missed_arrives_in_order_and_once(self):
        async with Relay(self.gateway) as relay:
            news, events = await self.join_over(relay)
            await self.publish("news:a", 1, 2, 3)
            seen = await self.publications(events, 3)
            relay.cut()
            await events.expect("subscribing")
            await self.publish("news:a", 4, 5, 6)
            relay.restore()
            context = await events.expect("subscribed")
            self.assertEqual((context.was_recovering, context.recovered), (True, True))
            await self.publish("news:a", 7, 8)
            seen += await self.publications(events, 5)
            self.assertEqual([one.data for one in seen], list(range(1, 9)))
            self.assertEqual([one.offset for one in seen], list(range(1, 9)))
            self.assertTrue(events.queue.empty())

    async def test_a_client_that_was_away_for_too_long_is_told_so(self):
        async with Relay(self.gateway) as relay:
            news, events = await self.join_over(relay)
            await self.publish("news:a", 1)
            await self.publications(events, 1)
            relay.cut()
            await events.expect("subscribing")
            await self.publish("news:a", *range(2, 21))
            relay.restore()
            context = await events.expect("subscribed")
            self.assertEqual((context.was_recovering, context.recovered), (True, False))
            self.assertEqual(context.stream_position.offset, 20)
            await self.publish("news:a", 21)
            self.assertEqual([one.data for one in await self.publications(events, 1)], [21])

    async def join_over(self, relay):
        client, _ = await self.connect_to(relay, token("ann"), **SOON)
        news, events = await self.subscribe(client, "news:a")
        context = await events.expect("subscribed")
        self.assertTrue(context.recoverable and context.positioned)
        return news, events
