"""Tests three nodes over one Redis: each answers for all of them."""

import uuid

from cent import (
    BatchRequest,
    BroadcastRequest,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PublishRequest,
    UnsubscribeRequest,
)

from gateway import CONFIG, Gateway, Redis, token
from live import LiveTestCase

redis = None
gateways = []


def setUpModule():
    global redis
    redis = Redis()
    config = CONFIG + f"\n[broker]\nkind = \"redis\"\n\n[redis]\nurl = \"{redis.url}\"\n"
    gateways.extend(Gateway(config) for _ in range(3))


def tearDownModule():
    for gateway in gateways:
        gateway.stop()
    redis.stop()


def fresh(prefix="cluster"):
    return f"{prefix}-{uuid.uuid4()}"


class Cluster(LiveTestCase):
    async def asyncSetUp(self):
        self.apis = [self.api_of(gateway) for gateway in gateways]

    async def test_publications_through_any_node_reach_a_client_in_the_order_of_their_offsets(self):
        channel = fresh()
        client, events = await self.connect_to(gateways[0], token("alice"))
        await events.expect("connected")
        _, events = await self.subscribe(client, channel)
        await events.expect("subscribed")
        for number in range(30):
            api = self.apis[number % 3]
            self.assertEqual((await api.publish(PublishRequest(channel=channel, data=number))).offset, number + 1)
        batch = BatchRequest(requests=[PublishRequest(channel=channel, data=number) for number in range(30, 530)])
        replies = (await self.apis[1].batch(batch)).replies
        self.assertEqual([reply.offset for reply in replies], list(range(31, 531)))
        for number in range(530):
            publication = (await events.expect("publication")).pub
            self.assertEqual((publication.data, publication.offset), (number, number + 1))

    async def test_history_is_one(self):
        channel, other = fresh(), fresh()
        key = fresh()
        first = await self.apis[0].publish(PublishRequest(channel=channel, data=1, idempotency_key=key))
        again = await self.apis[1].publish(PublishRequest(channel=channel, data=1, idempotency_key=key))
        self.assertEqual(first, again)
        responses = (await self.apis[2].broadcast(BroadcastRequest(channels=[channel, other], data=2))).responses
        self.assertEqual([response.result.offset for response in responses], [2, 1])
        for api in self.apis:
            page = await api.history(HistoryRequest(channel=channel, limit=-1))
            self.assertEqual([one.data for one in page.publications], [1, 2])
            self.assertEqual(page.epoch, first.epoch)
        await self.apis[0].history_remove(HistoryRemoveRequest(channel=channel))
        page = await self.apis[1].history(HistoryRequest(channel=channel, limit=-1))
        self.assertEqual((page.publications, page.offset), ([], 2))

    async def test_presence_is_one(self):
        channel = fresh()
        users = set()
        for gateway in gateways:
            user = fresh("user")
            client, events = await self.connect_to(gateway, token(user))
            await events.expect("connected")
            _, events = await self.subscribe(client, channel)
            await events.expect("subscribed")
            users.add(user)
        for api in self.apis:
            presence = (await api.presence(PresenceRequest(channel=channel))).presence
            self.assertEqual({info.user for info in presence.values()}, users)

    async def test_a_users_clients_are_put_out_wherever_they_are(self):
        user, channel = fresh("user"), fresh()
        subscriptions, connections = [], []
        for gateway in gateways:
            client, events = await self.connect_to(gateway, token(user))
            await events.expect("connected")
            connections.append(events)
            _, events = await self.subscribe(client, channel)
            await events.expect("subscribed")
            subscriptions.append(events)
        await self.apis[0].unsubscribe(UnsubscribeRequest(user=user, channel=channel))
        for events in subscriptions:
            self.assertEqual((await events.expect("unsubscribed")).code, 2000)
        await self.apis[1].disconnect(DisconnectRequest(user=user, disconnect=Disconnect(code=4501, reason="banned")))
        for events in connections:
            self.assertEqual((await events.expect("disconnected")).code, 4501)

    async def test_every_node_knows_all(self):
        for api in self.apis:
            info = await self.eventually(lambda: api.info(InfoRequest()), lambda info: len(info.nodes) == 3)
            self.assertEqual(len({node.uid for node in info.nodes}), 3)
