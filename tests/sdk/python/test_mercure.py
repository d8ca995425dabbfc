"""Tests the Mercure hub with readers of server-sent events: updates of a topic and of a template, private updates, and recovery."""

import time
import unittest

import jwt
import requests

from gateway import CONFIG, KEY, SECRET, Gateway
from readers import READERS

ON = CONFIG.replace("[drain]", "[mercure]\nenabled = true\n\n[drain]")
PATH = "/.well-known/mercure"


def signed(**mercure):
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60, "mercure": mercure}, SECRET, algorithm="HS256")


class Mercure(unittest.TestCase):
    def setUp(self):
        self.gateway = Gateway(ON)
        self.addCleanup(self.gateway.stop)
        self.url = f"http://{self.gateway.address}{PATH}"

    def publish(self, **fields):
        headers = {"Authorization": f"Bearer {signed(publish=['*'])}"}
        answer = requests.post(self.url, data=fields, headers=headers, timeout=20)
        answer.raise_for_status()
        return answer.text

    def read(self, reader, topic, last_id=None):
        headers = {"Authorization": f"Bearer {signed(subscribe=['/users/ann'])}"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        stream = reader(f"{self.url}?topic={topic}", headers)
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200)
        return stream

    def each(self):
        for number, reader in enumerate(READERS):
            with self.subTest(reader=reader.__doc__):
                yield reader, f"/books{number}"

    def test_a_topic_and_a_template_are_followed_and_gone_on_with(self):
        for reader, books in self.each():
            for topic in (f"{books}/1", f"{books}/{{id}}"):
                stream = self.read(reader, topic)
                ids = [self.publish(topic=f"{books}/1", data="one\ntwo", type="changed")]
                self.publish(topic=f"{books}/1", data="not for ann", private="on")
                ids.append(self.publish(topic=[f"{books}/1", "/users/ann"], data="for ann", private="on"))
                seen = [next(stream.events) for _ in range(2)]
                self.assertEqual(seen, [("changed", "one\ntwo", ids[0]), ("message", "for ann", ids[1])])
                stream.close()
                missed = self.publish(topic=f"{books}/1", data="missed")
                stream = self.read(reader, topic, last_id=ids[1])
                self.assertEqual(next(stream.events), ("message", "missed", missed))

    def test_what_the_server_api_publishes_is_an_update(self):
        for reader, books in self.each():
            streams = [self.read(reader, topic) for topic in (f"{books}/1", f"{books}/{{id}}")]
            body = {"channel": f"mercure:{books}/1", "data": {"by": "the API"}, "tags": {"event": "changed"}}
            answer = requests.post(f"{self.gateway.api}/publish", json=body, headers={"X-API-Key": KEY}, timeout=20)
            answer.raise_for_status()
            one, other = (next(stream.events) for stream in streams)
            self.assertEqual(one[:2], ("changed", '{"by": "the API"}'))
            self.assertEqual(one, other)


if __name__ == "__main__":
    unittest.main()
