"""Tests generic readers of server-sent events: which events they receive, and from where they recover."""

import json
import unittest

import requests

from gateway import CONFIG, KEY, Gateway, token
from readers import READERS

ON = CONFIG.replace("[drain]", "[sse]\nenabled = true\n\n[drain]")


class EventStreams(unittest.TestCase):
    def setUp(self):
        self.gateway = Gateway(ON)
        self.addCleanup(self.gateway.stop)

    def publish(self, channel, data):
        body = {"channel": channel, "data": data}
        answer = requests.post(f"{self.gateway.api}/publish", json=body, headers={"X-API-Key": KEY}, timeout=20)
        answer.raise_for_status()

    def read(self, reader, query, last_id=None, user="ann"):
        headers = {"Authorization": f"Bearer {token(user)}"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        stream = reader(f"http://{self.gateway.address}/sse?{query}", headers)
        self.addCleanup(stream.close)
        return stream

    def each(self):
        for reader in READERS:
            with self.subTest(reader=reader.__doc__):
                yield reader

    def test_one_channel_is_followed_and_gone_on_with(self):
        for number, reader in enumerate(self.each()):
            channel = f"one{number}"
            stream = self.read(reader, f"channel={channel}")
            kind, data, _ = next(stream.events)
            self.assertEqual((kind, json.loads(data)["channels"]), ("subscribed", {channel: {}}))
            for value in ({"a": 1}, "zwei"):
                self.publish(channel, value)
            seen = [next(stream.events) for _ in range(2)]
            self.assertEqual([(kind, json.loads(data)) for kind, data, _ in seen], [("message", {"a": 1}), ("message", "zwei")])
            stream.close()
            self.publish(channel, 3)
            stream = self.read(reader, f"channel={channel}", last_id=seen[-1][2])
            self.assertTrue(json.loads(next(stream.events)[1])["channels"][channel]["recovered"])
            self.assertEqual(next(stream.events)[1], "3")

    def test_several_channels_are_told_apart_and_gone_on_with(self):
        for number, reader in enumerate(self.each()):
            one, two = f"a{number}", f"b{number}"
            stream = self.read(reader, f"channel={one}&channel={two}")
            next(stream.events)
            for channel, value in ((one, 1), (two, 2), (two, 3)):
                self.publish(channel, value)
            seen = [next(stream.events) for _ in range(3)]
            self.assertEqual([(kind, data) for kind, data, _ in seen], [(one, "1"), (two, "2"), (two, "3")])
            stream.close()
            for channel, value in ((two, 4), (one, 5)):
                self.publish(channel, value)
            stream = self.read(reader, f"channel={one}&channel={two}", last_id=seen[-1][2])
            next(stream.events)
            self.assertEqual(sorted(next(stream.events)[:2] for _ in range(2)), [(one, "5"), (two, "4")])

    def test_events_have_their_names_where_they_are_asked_for(self):
        for number, reader in enumerate(self.each()):
            channel = f"named{number}"
            stream = self.read(reader, f"channel={channel}&names=true")
            next(stream.events)
            for tags in ({"event": "price"}, {"event": "two\nlines"}, {}):
                body = {"channel": channel, "data": 1, "tags": tags}
                requests.post(f"{self.gateway.api}/publish", json=body, headers={"X-API-Key": KEY}, timeout=20)
            self.assertEqual([next(stream.events)[0] for _ in range(3)], ["price", "message", "message"])

    def test_the_end_is_an_event_and_then_the_end(self):
        for number, reader in enumerate(self.each()):
            user = f"user{number}"
            stream = self.read(reader, "channel=news", user=user)
            next(stream.events)
            answer = requests.post(
                f"{self.gateway.api}/disconnect", json={"user": user}, headers={"X-API-Key": KEY}, timeout=20
            )
            answer.raise_for_status()
            kind, data, _ = next(stream.events)
            self.assertEqual((kind, json.loads(data)), ("disconnect", {"code": 3503, "reason": "force disconnect"}))
            self.assertEqual(list(stream.events), [])

    def test_who_may_not_is_told_by_a_status(self):
        for path, status in (("channel=$secret", 403), ("channel=nowhere:a", 400)):
            answer = requests.get(
                f"http://{self.gateway.address}/sse?{path}",
                headers={"Authorization": f"Bearer {token('ann')}"},
                timeout=20,
            )
            self.assertEqual(answer.status_code, status, path)
        answer = requests.get(f"http://{self.gateway.address}/sse?channel=news", timeout=20)
        self.assertEqual((answer.status_code, answer.headers["WWW-Authenticate"]), (401, "Bearer"))


if __name__ == "__main__":
    unittest.main()
