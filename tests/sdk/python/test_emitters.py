"""Tests python-socketio's write-only managers, with and without asyncio, through Redis to clients on two nodes."""

import asyncio
import queue
import unittest

import socketio

from gateway import Gateway, Redis

CONFIG = """
[auth]
allow_anonymous = true
[socketio]
enabled = true
[socketio.namespaces."/"]
[socketio.namespaces."/admin"]
[socketio.emitters]
enabled = true
[drain]
notice_ms = 0
grace_ms = 100
"""
PATIENCE_S = 30

redis = None
gateways = []


def setUpModule():
    global redis
    redis = Redis()
    config = CONFIG + f"\n[broker]\nkind = \"redis\"\n[redis]\nurl = \"{redis.url}\"\n"
    gateways.extend(Gateway(config) for _ in range(2))


def tearDownModule():
    for gateway in gateways:
        gateway.stop()
    redis.stop()


class Managers(unittest.TestCase):
    def setUp(self):
        self.manager = socketio.RedisManager(redis.url, write_only=True)
        self.clients = [self.connected(gateway) for gateway in gateways]

    def connected(self, gateway, namespace="/"):
        client, heard = socketio.Client(reconnection=False), queue.Queue()
        client.on("*", lambda event, *args: heard.put((event, *args)), namespace=namespace)
        client.on("disconnect", lambda *_: heard.put(("disconnect",)), namespace=namespace)
        client.connect(f"http://{gateway.address}", namespaces=[namespace], wait_timeout=PATIENCE_S)
        self.addCleanup(client.disconnect)
        return client, heard, client.get_sid(namespace)

    def assert_told(self, *told):
        """Checks that each client receives these events, and then a mark for all."""
        self.manager.emit("mark", None)
        for (_, heard, _), events in zip(self.clients, told):
            # Events of different rooms have no order.
            found = [heard.get(timeout=PATIENCE_S) for _ in range(len(events) + 1)]
            self.assertCountEqual(found, [*events, ("mark",)])

    def test_events_reach_each_client_once(self):
        (_, _, one), (_, _, other) = self.clients
        self.manager.emit("all", {"a": [1, None]})
        self.manager.emit("several", ("x", 2))
        self.manager.emit("a list", [1, 2])
        self.manager.emit("bytes", {"photo": b"\x01\xff"})
        self.manager.emit("whole", b"\x00")
        said = [("all", {"a": [1, None]}), ("several", "x", 2), ("a list", [1, 2])]
        said += [("bytes", {"photo": b"\x01\xff"}), ("whole", b"\x00")]
        self.assert_told(said, said)
        self.manager.emit("private", 1, to=one)
        self.manager.emit("others", 2, skip_sid=one)
        self.manager.emit("skipped", 3, skip_sid=[one, other])
        self.assert_told([("private", 1)], [("others", 2)])

    def test_rooms(self):
        (_, _, one), (_, _, other) = self.clients
        self.manager.enter_room(one, "/", "a")
        self.manager.enter_room(other, "/", "b")
        self.manager.emit("a", 1, room="a")
        self.manager.emit("both", 2, room=["a", "b"])
        self.assert_told([("a", 1), ("both", 2)], [("both", 2)])
        self.manager.leave_room(one, "/", "a")
        self.manager.close_room("b")
        self.manager.emit("nobody", 3, room=["a", "b"])
        self.assert_told([], [])

    def test_namespaces_are_apart(self):
        _, heard, _ = self.connected(gateways[1], "/admin")
        self.manager.emit("for admins", 1, namespace="/admin")
        self.assertEqual(heard.get(timeout=PATIENCE_S), ("for admins", 1))
        self.assert_told([], [])

    def test_the_manager_for_asyncio(self):
        async def emit():
            manager = socketio.AsyncRedisManager(redis.url, write_only=True)
            await manager.enter_room(self.clients[0][2], "/", "r")
            await manager.emit("async", {"b": b"\x07"}, room="r")
            await manager.redis.aclose()

        asyncio.run(emit())
        self.assert_told([("async", {"b": b"\x07"})], [])


if __name__ == "__main__":
    unittest.main()
