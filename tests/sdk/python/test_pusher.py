"""Tests pysher, a Pusher client, and pusher, the official library for servers."""

import http.server
import json
import threading
import unittest
from pathlib import Path

import pusher
import pysher

from gateway import Gateway

CONFIG = (Path(__file__).resolve().parents[2] / "support" / "pusher.toml").read_text()
PATIENCE_S = 30

gateway = None
hooked = None


def setUpModule():
    global gateway, hooked
    hooked = Application()
    gateway = Gateway(CONFIG + hooked.webhook)


def tearDownModule():
    gateway.stop()
    hooked.stop()


def server(secret="app-secret"):
    host, port = gateway.address.split(":")
    return pusher.Pusher(app_id="1", key="app-key", secret=secret, host=host, port=int(port), ssl=False)


class Heard:
    """The received events, in order."""

    def __init__(self):
        self.all, self.more = [], threading.Condition()

    def add(self, *what):
        with self.more:
            self.all.append(what)
            self.more.notify_all()

    def wait_for(self, count):
        with self.more:
            there = self.more.wait_for(lambda: len(self.all) >= count, PATIENCE_S)
        assert there, f"{self.all} and no more"
        return self.all


class Application:
    """An app's server, which records the requests that it receives as (key, signature, body)."""

    def __init__(self):
        posted = self.posted = Heard()

        class Hook(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                posted.add(self.headers["X-Pusher-Key"], self.headers["X-Pusher-Signature"], body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        port = self.server.server_address[1]
        self.webhook = f"""
[pusher.apps.shop.webhooks.main]
url = "http://127.0.0.1:{port}/"
types = ["channel_occupied"]
channel_prefix = "hooked-"
"""

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Clients(unittest.TestCase):
    def connected(self, **options):
        host, port = gateway.address.split(":")
        client = pysher.Pusher("app-key", custom_host=host, port=int(port), secure=False, **options)
        up = threading.Event()
        client.connection.bind("pusher:connection_established", lambda data: up.set())
        client.connect()
        # The client's thread ends after a timeout of its own, for which the test does not wait.
        self.addCleanup(client.disconnect, 0)
        self.assertTrue(up.wait(PATIENCE_S), "it connects")
        return client

    def subscribed(self, client, name, *events):
        heard, up = Heard(), threading.Event()
        channel = client.subscribe(name)
        channel.bind("pusher_internal:subscription_succeeded", lambda data: up.set())
        for event in events:
            channel.bind(event, lambda data, event=event: heard.add(event, json.loads(data)))
        # The event may have come before the handler was bound.
        for _ in range(PATIENCE_S * 10):
            if up.wait(0.1) or name in server().channels_info()["channels"]:
                break
        return channel, heard

    def test_an_event_of_the_server_reaches_the_client(self):
        _, heard = self.subscribed(self.connected(), "news", "price")
        server().trigger("news", "price", {"value": 1.5, "name": "é"})
        server().trigger(["news", "other"], "price", [1, None])
        self.assertEqual(heard.wait_for(2), [("price", {"value": 1.5, "name": "é"}), ("price", [1, None])])

    def test_clients_of_a_private_channel_hear_each_other(self):
        one, other = self.connected(secret="app-secret"), self.connected(secret="app-secret")
        _, heard = self.subscribed(other, "private-map", "client-moved")
        channel, own = self.subscribed(one, "private-map", "client-moved")
        channel.trigger("client-moved", {"x": 1})
        self.assertEqual(heard.wait_for(1), [("client-moved", {"x": 1})])
        self.assertEqual(own.all, [])

    def test_a_presence_channel_tells_who_comes(self):
        ann = self.connected(secret="app-secret", user_data={"user_id": "ann", "user_info": {"n": 1}})
        _, heard = self.subscribed(ann, "presence-room", "pusher_internal:member_added")
        bob = self.connected(secret="app-secret", user_data={"user_id": "bob", "user_info": {"n": 2}})
        self.subscribed(bob, "presence-room")
        added = ("pusher_internal:member_added", {"user_id": "bob", "user_info": {"n": 2}})
        self.assertEqual(heard.wait_for(1), [added])
        self.assertEqual(server().users_info("presence-room"), {"users": [{"id": "ann"}, {"id": "bob"}]})

    def test_the_library_takes_a_webhook_for_what_it_is(self):
        self.subscribed(self.connected(), "hooked-news")
        key, signature, body = hooked.posted.wait_for(1)[0]
        told = server().validate_webhook(key, signature, body)
        self.assertEqual(told["events"], [{"name": "channel_occupied", "channel": "hooked-news"}])
        self.assertIsNone(server().validate_webhook(key, signature, body + " "))
        self.assertIsNone(server("wrong").validate_webhook(key, signature, body))

    def test_the_library_sends_a_user_away(self):
        client = self.connected()
        gone, signed_in = threading.Event(), threading.Event()
        client.connection.bind("pusher:error", lambda data: gone.set())
        client.connection.bind("pusher:signin_success", lambda data: signed_in.set())
        user = server().authenticate_user(client.connection.socket_id, {"id": "ann"})
        client.connection.send_event("pusher:signin", user)
        self.assertTrue(signed_in.wait(PATIENCE_S))
        server().terminate_user_connections("ann")
        self.assertTrue(gone.wait(PATIENCE_S))

    def test_a_client_answers_pings_and_asks_by_itself(self):
        client = self.connected()
        pong = threading.Event()
        client.connection.bind("pusher:pong", lambda data: pong.set())
        client.connection.send_ping()
        self.assertTrue(pong.wait(PATIENCE_S))


class Servers(unittest.TestCase):
    def test_a_batch_is_several_events(self):
        events = [{"channel": f"c{n}", "name": "e", "data": {"n": n}} for n in range(10)]
        self.assertEqual(server().trigger_batch(events), {})
        with self.assertRaises(pusher.errors.PusherError):
            server().trigger_batch([*events, events[0]])

    def test_what_is_asked_about_channels_is_told(self):
        self.assertEqual(server().channel_info("nobody-here", ["subscription_count"]),
                         {"occupied": False, "subscription_count": 0})
        self.assertNotIn("nobody-here", server().channels_info()["channels"])
        with self.assertRaises(pusher.errors.PusherBadRequest):
            server().users_info("news")

    def test_a_wrong_secret_opens_nothing(self):
        with self.assertRaises(pusher.errors.PusherBadAuth):
            server("wrong").trigger("news", "e", {})
