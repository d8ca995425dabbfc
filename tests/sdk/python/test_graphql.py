"""Tests gql, the GraphQL client for Python, over WebSockets with both subprotocols: it is strict about the order of messages."""

import asyncio
import json
import unittest
import urllib.request

from gql import Client, gql
from gql.transport.exceptions import TransportError, TransportQueryError
from gql.transport.websockets import WebsocketsTransport

from gateway import CONFIG, KEY, Gateway, token

ON = CONFIG.replace(
    "[drain]",
    """
[graphql]
enabled = true
[graphql.subscriptions.message]
channel = "{topic}"
[graphql.subscriptions.shut]
channel = "shut:{name}"
[namespaces.shut]

[drain]""",
)
QUERY = "subscription On($topic: String!) { message(topic: $topic) }"
PATIENCE_SECONDS = 20


class Graphql(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.gateway = Gateway(ON)
        self.addCleanup(self.gateway.stop)

    def transport(self, **options):
        init = {"token": token("ann")}
        return WebsocketsTransport(url=f"ws://{self.gateway.address}/graphql", init_payload=init, **options)

    def api(self, method, body):
        request = urllib.request.Request(f"{self.gateway.api}/{method}", json.dumps(body).encode(), {"X-API-Key": KEY})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["result"]

    async def publish(self, channel, data):
        await asyncio.to_thread(self.api, "publish", {"channel": channel, "data": data})

    async def read(self, channel, readers=1):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                stats = await asyncio.to_thread(self.api, "presence_stats", {"channel": channel})
                if stats["num_clients"] == readers:
                    return
                await asyncio.sleep(0.02)

    async def hears(self, **options):
        async with Client(transport=self.transport(**options)) as session:
            document = gql(QUERY)
            document.variable_values = {"topic": "news"}
            told = []

            async def listen():
                async for result in session.subscribe(document):
                    told.append(result["message"])
                    if len(told) == 5:
                        break

            listening = asyncio.create_task(listen())
            await self.read("news")
            for number in range(5):
                await self.publish("news", {"number": number})
            await asyncio.wait_for(listening, PATIENCE_SECONDS)
            self.assertEqual(told, [{"number": number} for number in range(5)])
            await self.read("news", readers=0)

    async def test_it_is_told_what_is_published_until_it_has_had_enough(self):
        await self.hears()

    async def test_it_is_so_in_the_old_subprotocol(self):
        await self.hears(subprotocols=[WebsocketsTransport.APOLLO_SUBPROTOCOL])

    async def test_it_pings_and_is_pinged(self):
        await self.hears(ping_interval=0.05, pong_timeout=PATIENCE_SECONDS)

    async def test_it_is_told_why_an_operation_is_refused(self):
        async with Client(transport=self.transport()) as session:
            with self.assertRaises(TransportQueryError) as refused:
                async for _ in session.subscribe(gql('subscription { shut(name: "a") }')):
                    self.fail("nothing is told")
            self.assertIn("permission denied", str(refused.exception))

    async def test_it_asks_about_the_schema(self):
        async with Client(transport=self.transport()) as session:
            result = await session.execute(gql("{ __schema { subscriptionType { name } } }"))
            self.assertEqual(result, {"__schema": {"subscriptionType": {"name": "Subscription"}}})

    async def test_it_fetches_the_schema(self):
        async with Client(transport=self.transport(), fetch_schema_from_transport=True) as session:
            fields = session.client.schema.subscription_type.fields
            self.assertEqual(sorted(fields), ["message", "shut"])
            self.assertEqual(str(fields["message"].type), "JSON")

    async def test_a_wrong_token_ends_it(self):
        transport = WebsocketsTransport(url=f"ws://{self.gateway.address}/graphql", init_payload={"token": "wrong"})
        with self.assertRaises(TransportError):
            async with Client(transport=transport):
                self.fail("it is not let in")


if __name__ == "__main__":
    unittest.main()
