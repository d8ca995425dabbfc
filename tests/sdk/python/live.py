"""Live clients for tests, which record their events in order."""

import asyncio
import logging
import time
import unittest

from cent import AsyncClient
from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

from gateway import KEY

SECONDS_MAX = 20

# The event loops of tests run in debug mode, which reports every step that takes a tenth of a second.
logging.getLogger("asyncio").setLevel(logging.ERROR)


class Events(ClientEventHandler, SubscriptionEventHandler):
    """Records every event by name, in order."""

    def __init__(self):
        self.queue = asyncio.Queue()

    async def expect(self, name):
        """Waits for the next event of this name; skips others before it."""
        deadline = time.monotonic() + SECONDS_MAX
        passed = []
        while True:
            try:
                event, context = await asyncio.wait_for(self.queue.get(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise AssertionError(f"no {name} within {SECONDS_MAX} s, but {passed}") from None
            if event == name:
                return context
            passed.append((event, context))


def _record(name):
    async def handler(self, context):
        await self.queue.put((name, context))

    return handler


for _name in ("connecting", "connected", "disconnected", "error", "subscribing", "subscribed", "unsubscribed", "publication"):
    setattr(Events, f"on_{_name}", _record(_name))


class LiveTestCase(unittest.IsolatedAsyncioTestCase):
    """A test whose clients are closed at its end."""

    def api_of(self, gateway):
        api = AsyncClient(gateway.api, KEY)
        self.addAsyncCleanup(api.close)
        return api

    async def connect_to(self, gateway, connection_token, **options):
        events = Events()
        client = Client(gateway.websocket, events=events, token=connection_token, proxy=None, **options)
        self.addAsyncCleanup(client.disconnect)
        await client.connect()
        return client, events

    async def subscribe(self, client, channel, **options):
        events = Events()
        subscription = client.new_subscription(channel, events=events, **options)
        await subscription.subscribe()
        return subscription, events

    async def eventually(self, ask, holds):
        deadline = time.monotonic() + SECONDS_MAX
        while not holds(answer := await ask()):
            self.assertLess(time.monotonic(), deadline, answer)
            await asyncio.sleep(0.02)
        return answer
