"""Tests python-socketio, an independent implementation of the protocol, with and without asyncio."""

import asyncio
import queue
import unittest

import socketio

from gateway import Gateway

CONFIG = """
[auth]
allow_anonymous = true
[socketio]
enabled = true
[socketio.namespaces."/".events."chat message"]
action = "publish"
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
event = "user-joined"
[socketio.namespaces."/custom".events."*"]
action = "publish"
[drain]
notice_ms = 0
grace_ms = 100
"""
PATIENCE_S = 30

gateway = None


def setUpModule():
    global gateway
    gateway = Gateway(CONFIG)


def tearDownModule():
    gateway.stop()


class Sync(unittest.TestCase):
    def connected(self, transports, namespaces=("/",)):
        client, heard = socketio.Client(reconnection=False), queue.Queue()
        for namespace in namespaces:
            client.on("*", lambda event, *args: heard.put((event, *args)), namespace=namespace)
        client.connect(f"http://{gateway.address}", transports=transports, namespaces=list(namespaces))
        self.addCleanup(client.disconnect)
        return client, heard

    def hears(self, transports):
        one, _ = self.connected(transports)
        other, heard = self.connected(transports)
        self.assertEqual(one.call("chat message", ("hi", {"photo": b"\x01\xff"}), timeout=PATIENCE_S), {"status": "ok"})
        self.assertEqual(heard.get(timeout=PATIENCE_S), ("chat message", "hi", {"photo": b"\x01\xff"}))
        other.call("join", "room", timeout=PATIENCE_S)
        one.call("join", "room", timeout=PATIENCE_S)
        self.assertEqual(heard.get(timeout=PATIENCE_S), ("user-joined", one.get_sid()))

    def test_over_a_websocket(self):
        self.hears(["websocket"])

    def test_by_polling(self):
        self.hears(["polling"])

    def test_by_polling_and_then_a_websocket(self):
        self.hears(["polling", "websocket"])

    def test_several_namespaces(self):
        client, heard = self.connected(["websocket"], ("/", "/custom"))
        client.emit("e", 1, namespace="/custom")
        self.assertEqual(heard.get(timeout=PATIENCE_S), ("e", 1))

    def test_who_loses_its_node_knows_it_at_once(self):
        for transports in (["websocket"], ["polling"], ["polling", "websocket"]):
            with self.subTest(transports=transports):
                own, lost = Gateway(CONFIG), queue.Queue()
                client = socketio.Client(reconnection=False)
                client.on("disconnect", lambda reason: lost.put(reason))
                client.connect(f"http://{own.address}", transports=transports)
                own.stop()
                self.assertEqual(lost.get(timeout=PATIENCE_S), client.reason.TRANSPORT_ERROR)

    def test_a_namespace_that_is_not_there(self):
        with self.assertRaises(socketio.exceptions.ConnectionError):
            self.connected(["websocket"], ("/unknown",))


class Async(unittest.IsolatedAsyncioTestCase):
    async def test_events_bytes_and_acknowledgements(self):
        for transports in (["websocket"], ["polling", "websocket"]):
            one, other = (socketio.AsyncClient(reconnection=False) for _ in range(2))
            heard = asyncio.Queue()
            for client in (one, other):
                client.on("*", lambda event, *args, heard=heard: heard.put_nowait((event, *args)))
                await client.connect(f"http://{gateway.address}", transports=transports)
            answer = await one.call("chat message", b"\x00\xff", timeout=PATIENCE_S)
            self.assertEqual(answer, {"status": "ok"})
            # Both clients read the event: one that disconnected with an attachment on its way would report an error.
            for _ in (one, other):
                self.assertEqual(await asyncio.wait_for(heard.get(), PATIENCE_S), ("chat message", b"\x00\xff"))
            for client in (one, other):
                await client.disconnect()

    async def test_who_loses_its_node_knows_it_at_once(self):
        for transports in (["websocket"], ["polling"], ["polling", "websocket"]):
            with self.subTest(transports=transports):
                own, lost = Gateway(CONFIG), asyncio.Queue()
                client = socketio.AsyncClient(reconnection=False)
                client.on("disconnect", lambda reason: lost.put_nowait(reason))
                await client.connect(f"http://{own.address}", transports=transports)
                await asyncio.to_thread(own.stop)
                reason = await asyncio.wait_for(lost.get(), PATIENCE_S)
                self.assertEqual(reason, client.reason.TRANSPORT_ERROR)


if __name__ == "__main__":
    unittest.main()
