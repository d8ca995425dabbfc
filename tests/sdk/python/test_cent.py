"""Tests cent, the official library for the server API, synchronous and asynchronous."""

import unittest
import uuid

import requests
from cent import (
    AsyncClient,
    BatchRequest,
    BlockUserRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentTransportError,
    CentUnauthorizedError,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    StreamPosition,
    UnsubscribeRequest,
)

from gateway import KEY, Gateway

gateway = None


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.stop()


def fresh(prefix="cent"):
    return f"{prefix}-{uuid.uuid4()}"


class Synchronous(unittest.TestCase):
    def setUp(self):
        self.client = Client(gateway.api, KEY)
        self.addCleanup(self.client.close)

    def assert_code(self, code, call, request):
        with self.assertRaises(CentApiResponseError) as raised:
            call(request)
        self.assertEqual(raised.exception.code, code)

    def test_a_publication_answers_its_position(self):
        channel = fresh()
        first = self.client.publish(PublishRequest(channel=channel, data={"price": 1.5}))
        second = self.client.publish(PublishRequest(channel=channel, data=[1, "ä", None], tags={"k": "v"}))
        self.assertEqual((first.offset, second.offset), (1, 2))
        self.assertTrue(first.epoch)
        self.assertEqual(first.epoch, second.epoch)

    def test_a_channel_without_history_answers_no_position(self):
        result = self.client.publish(PublishRequest(channel=fresh("plain:cent"), data="x"))
        self.assertEqual((result.offset, result.epoch), (0, ""))

    def test_an_idempotency_key_publishes_once(self):
        channel = fresh()
        request = PublishRequest(channel=channel, data=1, idempotency_key=fresh())
        self.assertEqual(self.client.publish(request), self.client.publish(request))
        self.assertEqual(len(self.client.history(HistoryRequest(channel=channel, limit=10)).publications), 1)

    def test_a_broadcast_answers_for_each_channel(self):
        channels = [fresh(), "unknown:x", fresh()]
        result = self.client.broadcast(BroadcastRequest(channels=channels, data={"a": 1}))
        self.assertEqual([response.error.code if response.error else None for response in result.responses], [None, 102, None])
        self.assertEqual(result.responses[2].result.offset, 1)

    def test_history_is_read_in_parts(self):
        channel = fresh()
        for number in range(5):
            self.client.publish(PublishRequest(channel=channel, data=number, tags={"n": str(number)}))
        top = self.client.history(HistoryRequest(channel=channel))
        self.assertEqual((top.offset, top.publications), (5, []))
        page = self.client.history(HistoryRequest(channel=channel, limit=2))
        self.assertEqual([(one.data, one.offset, one.tags) for one in page.publications], [(0, 1, {"n": "0"}), (1, 2, {"n": "1"})])
        since = StreamPosition(offset=3, epoch=top.epoch)
        page = self.client.history(HistoryRequest(channel=channel, limit=-1, since=since))
        self.assertEqual([one.data for one in page.publications], [3, 4])
        page = self.client.history(HistoryRequest(channel=channel, limit=2, reverse=True))
        self.assertEqual([one.data for one in page.publications], [4, 3])
        since = StreamPosition(offset=3, epoch="other")
        self.assert_code(112, self.client.history, HistoryRequest(channel=channel, limit=1, since=since))

    def test_history_is_removed(self):
        channel = fresh()
        self.client.publish(PublishRequest(channel=channel, data=1))
        self.client.history_remove(HistoryRemoveRequest(channel=channel))
        page = self.client.history(HistoryRequest(channel=channel, limit=10))
        self.assertEqual((page.publications, page.offset), ([], 1))

    def test_presence_of_an_empty_channel(self):
        channel = fresh()
        self.assertEqual(self.client.presence(PresenceRequest(channel=channel)).presence, {})
        stats = self.client.presence_stats(PresenceStatsRequest(channel=channel))
        self.assertEqual((stats.num_clients, stats.num_users), (0, 0))

    def test_nodes_describe_themselves(self):
        nodes = self.client.info(InfoRequest()).nodes
        self.assertEqual(len(nodes), 1)
        self.assertTrue(nodes[0].uid and nodes[0].name and nodes[0].version)

    def test_clients_that_are_not_there_can_be_put_out(self):
        self.client.disconnect(DisconnectRequest(user=fresh()))
        self.client.disconnect(DisconnectRequest(user=fresh(), client="x", disconnect=Disconnect(code=4000, reason="r")))
        self.client.unsubscribe(UnsubscribeRequest(user=fresh(), channel=fresh()))

    def test_a_batch_answers_in_order(self):
        channel = fresh()
        requests_ = [
            PublishRequest(channel=channel, data=1),
            PublishRequest(channel=channel, data=2),
            BroadcastRequest(channels=[channel, fresh()], data=3),
            HistoryRequest(channel=channel, limit=10),
            PresenceStatsRequest(channel=channel),
            InfoRequest(),
        ]
        for parallel in (None, True):
            replies = self.client.batch(BatchRequest(requests=requests_, parallel=parallel)).replies
            self.assertEqual(len(replies), len(requests_))
            self.assertEqual(replies[1].offset, replies[0].offset + 1)
        replies = self.client.batch(BatchRequest(requests=requests_)).replies
        self.assertEqual([one.data for one in replies[3].publications][-3:], [1, 2, 3])

    def test_refusals_have_their_codes(self):
        self.assert_code(102, self.client.publish, PublishRequest(channel="unknown:x", data=1))
        self.assert_code(107, self.client.publish, PublishRequest(channel="", data=1))
        self.assert_code(107, self.client.publish, PublishRequest(channel="a", data=None))
        self.assert_code(108, self.client.history, HistoryRequest(channel="plain:x", limit=1))
        self.assert_code(108, self.client.presence, PresenceRequest(channel="plain:x"))
        self.assert_code(107, self.client.disconnect, DisconnectRequest(user=""))

    def test_a_wrong_key_is_refused(self):
        client = Client(gateway.api, "wrong")
        self.addCleanup(client.close)
        with self.assertRaises(CentUnauthorizedError):
            client.publish(PublishRequest(channel="a", data=1))

    def test_a_method_that_is_not_served_is_not_found(self):
        with self.assertRaises(CentTransportError) as raised:
            self.client.block_user(BlockUserRequest(user="ann"))
        self.assertEqual(raised.exception.status_code, 404)

    def test_bodies_that_are_wrong_or_too_long_are_told(self):
        post = lambda body: requests.post(f"{gateway.api}/publish", data=body, headers={"X-API-Key": KEY}, timeout=10)
        self.assertEqual(post("{").status_code, 400)
        self.assertIn("line 1 column", post("{").json()["error"]["message"])
        self.assertEqual(post(b" " * (1024 * 1024 + 1)).status_code, 413)
        # Without a Content-Length, the gateway reads up to the limit.
        self.assertEqual(post(b" " * 65_536 for _ in range(32)).status_code, 413)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = AsyncClient(gateway.api, KEY)
        self.addAsyncCleanup(self.client.close)

    async def test_every_method_answers(self):
        channel = fresh()
        self.assertEqual((await self.client.publish(PublishRequest(channel=channel, data=1))).offset, 1)
        broadcast = await self.client.broadcast(BroadcastRequest(channels=[channel], data=2))
        self.assertEqual(broadcast.responses[0].result.offset, 2)
        page = await self.client.history(HistoryRequest(channel=channel, limit=10))
        self.assertEqual([one.data for one in page.publications], [1, 2])
        self.assertEqual((await self.client.presence(PresenceRequest(channel=channel))).presence, {})
        self.assertEqual((await self.client.presence_stats(PresenceStatsRequest(channel=channel))).num_clients, 0)
        self.assertEqual(len((await self.client.info(InfoRequest())).nodes), 1)
        await self.client.disconnect(DisconnectRequest(user=fresh()))
        await self.client.unsubscribe(UnsubscribeRequest(user=fresh(), channel=channel))
        await self.client.history_remove(HistoryRemoveRequest(channel=channel))
        batch = await self.client.batch(BatchRequest(requests=[PublishRequest(channel=channel, data=3)], parallel=True))
        self.assertEqual(batch.replies[0].offset, 3)

    async def test_refusals_have_their_codes(self):
        with self.assertRaises(CentApiResponseError) as raised:
            await self.client.publish(PublishRequest(channel="unknown:x", data=1))
        self.assertEqual(raised.exception.code, 102)
        client = AsyncClient(gateway.api, "wrong")
        self.addAsyncCleanup(client.close)
        with self.assertRaises(CentUnauthorizedError):
            await client.info(InfoRequest())


if __name__ == "__main__":
    unittest.main()
