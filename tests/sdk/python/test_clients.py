"""Tests tokens, and the effects of the server API on live clients: cent on one side, centrifuge-python on the other."""

import asyncio
import unittest
import uuid

from cent import (
    Disconnect,
    DisconnectRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    UnsubscribeRequest,
)
from centrifuge import ReplyError

from gateway import Gateway, token
from live import SECONDS_MAX, LiveTestCase

gateway = None


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.stop()


def fresh(prefix="clients"):
    return f"{prefix}-{uuid.uuid4()}"


class Clients(LiveTestCase):
    async def asyncSetUp(self):
        self.api = self.api_of(gateway)

    async def connect(self, connection_token, **options):
        return await self.connect_to(gateway, connection_token, **options)

    async def test_a_client_gets_what_the_api_publishes(self):
        channel = fresh()
        client, events = await self.connect(token("alice"))
        await events.expect("connected")
        _, events = await self.subscribe(client, channel)
        await events.expect("subscribed")
        for number in range(100):
            await self.api.publish(PublishRequest(channel=channel, data={"n": number}, tags={"k": "v"}))
        for number in range(100):
            publication = (await events.expect("publication")).pub
            self.assertEqual((publication.data, publication.offset), ({"n": number}, number + 1))
            self.assertEqual((publication.tags, publication.info), ({"k": "v"}, None))
        page = await self.api.history(HistoryRequest(channel=channel, limit=-1))
        self.assertEqual(page.offset, 100)

    async def test_presence_shows_a_client_with_the_info_of_its_tokens(self):
        channel = fresh("$room")
        client, events = await self.connect(token("alice", info={"name": "Alice"}))
        connected = await events.expect("connected")
        subscription_token = token("alice", channel=channel, info=["vip"])
        subscription, events = await self.subscribe(client, channel, token=subscription_token)
        await events.expect("subscribed")
        presence = (await self.api.presence(PresenceRequest(channel=channel))).presence
        self.assertEqual(list(presence), [connected.client])
        info = presence[connected.client]
        self.assertEqual((info.user, info.conn_info, info.chan_info), ("alice", {"name": "Alice"}, ["vip"]))
        stats = await self.api.presence_stats(PresenceStatsRequest(channel=channel))
        self.assertEqual((stats.num_clients, stats.num_users), (1, 1))
        await subscription.unsubscribe()
        ask = lambda: self.api.presence_stats(PresenceStatsRequest(channel=channel))
        await self.eventually(ask, lambda stats: stats.num_clients == 0)

    async def test_a_node_counts_its_clients(self):
        client, events = await self.connect(token(fresh()))
        await events.expect("connected")
        _, events = await self.subscribe(client, fresh())
        await events.expect("subscribed")
        counted = lambda info: info.nodes[0].num_clients and info.nodes[0].num_users and info.nodes[0].num_subs
        await self.eventually(lambda: self.api.info(InfoRequest()), counted)

    async def test_the_api_disconnects_a_user_and_spares_the_whitelist(self):
        user = fresh()
        spared, spared_events = await self.connect(token(user))
        spared_id = (await spared_events.expect("connected")).client
        _, events = await self.connect(token(user))
        await events.expect("connected")
        disconnect = Disconnect(code=4501, reason="banned")
        await self.api.disconnect(DisconnectRequest(user=user, whitelist=[spared_id], disconnect=disconnect))
        context = await events.expect("disconnected")
        self.assertEqual((context.code, context.reason), (4501, "banned"))
        await spared.ready()
        # The other client is still connected.
        with self.assertRaises(ReplyError):
            await spared.publish(fresh(), 1)

        await self.api.disconnect(DisconnectRequest(user=user))
        self.assertEqual((await spared_events.expect("disconnected")).code, 3503)

    async def test_a_client_comes_back_after_a_code_that_invites_it(self):
        user = fresh()
        _, events = await self.connect(token(user))
        first = (await events.expect("connected")).client
        await self.api.disconnect(DisconnectRequest(user=user, client=first, disconnect=Disconnect(code=4000, reason="move")))
        self.assertEqual((await events.expect("connecting")).code, 4000)
        self.assertNotEqual((await events.expect("connected")).client, first)

    async def test_the_api_ends_a_subscription(self):
        user, channel = fresh(), fresh()
        client, events = await self.connect(token(user))
        await events.expect("connected")
        _, events = await self.subscribe(client, channel)
        await events.expect("subscribed")
        await self.api.unsubscribe(UnsubscribeRequest(user=user, channel=channel))
        self.assertEqual((await events.expect("unsubscribed")).code, 2000)
        await client.ready()

    async def test_a_token_that_is_wrong_ends_the_connection_for_good(self):
        _, events = await self.connect("not.a.token")
        self.assertEqual((await events.expect("disconnected")).code, 3500)
        _, events = await self.connect("")
        self.assertEqual((await events.expect("disconnected")).code, 3501)

    async def test_an_expired_token_is_replaced_and_the_connection_goes_on(self):
        asked = []

        async def get_token():
            asked.append(True)
            return token("alice")

        _, events = await self.connect(token("alice", seconds=-5), get_token=get_token)
        await events.expect("connected")
        self.assertTrue(asked)

    async def test_a_connection_outlives_its_token_if_it_is_refreshed(self):
        refreshed = asyncio.Event()

        async def get_token():
            refreshed.set()
            return token("alice")

        client, events = await self.connect(token("alice", seconds=3), get_token=get_token)
        await events.expect("connected")
        await asyncio.wait_for(refreshed.wait(), SECONDS_MAX)
        await client.ready()

    async def test_a_private_channel_needs_its_own_token(self):
        channel = fresh("$private")
        client, events = await self.connect(token("alice"))
        await events.expect("connected")
        _, events = await self.subscribe(client, channel, token=token("alice", channel=channel))
        await events.expect("subscribed")
        for wrong in (token("alice"), token("alice", channel=channel)[:-4] + "AAAA"):
            _, events = await self.subscribe(client, fresh("$private"), token=wrong)
            self.assertEqual((await events.expect("unsubscribed")).code, 103)


if __name__ == "__main__":
    unittest.main()
