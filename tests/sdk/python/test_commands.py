"""Tests `tidegate publish` and `tidegate token`, as a newcomer would use them."""

import json
import os
import subprocess
import time
import unittest
import uuid

from cent import Client, HistoryRequest

from gateway import BINARY, CONFIG, KEY, SECRET, Gateway, Redis
from live import SECONDS_MAX, LiveTestCase

LINES = 2_000


def history(gateway, channel, limit=-1):
    client = Client(gateway.api, KEY)
    try:
        return client.history(HistoryRequest(channel=channel, limit=limit))
    finally:
        client.close()


class Publish(unittest.TestCase):
    def publish(self, gateway, *arguments, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = subprocess.Popen([BINARY, "publish", "--url", gateway.api, "--key", KEY, *arguments], **options)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def test_lines_of_standard_input_arrive_and_bad_ones_are_told(self):
        gateway = Gateway()
        self.addCleanup(gateway.stop)
        process = self.publish(gateway, "--file", "-", "--rate", "max", stdin=subprocess.PIPE)
        out, error = process.communicate('a\t{"n": 1}\nno tab\nunknown:x\t1\na\t"two"\n', SECONDS_MAX)
        self.assertEqual(process.returncode, 1)
        self.assertIn("published 2 ", out)
        self.assertIn("line 2:", error)
        self.assertIn("unknown:x: unknown channel (102)", error)
        self.assertEqual([one.data for one in history(gateway, "a").publications], [{"n": 1}, "two"])

    def test_the_shipped_prices_arrive_at_the_rate_asked_for(self):
        gateway = Gateway()
        self.addCleanup(gateway.stop)
        begun = time.monotonic()
        process = self.publish(gateway, "--rate", "2000/s", "--channel-prefix", "")
        out, error = process.communicate(timeout=60)
        self.assertEqual((process.returncode, error), (0, ""), out)
        self.assertGreater(time.monotonic() - begun, 4_196 / 2_000 - 0.5)
        last = history(gateway, "MSFT").publications[-1]
        self.assertEqual((last.offset, last.data["date"]), (1_000, "2013-03-01"))

    def test_a_gateway_that_crashes_and_comes_back_has_everything_once_and_in_order(self):
        redis = Redis()
        self.addCleanup(redis.stop)
        config = CONFIG.replace("history_size = 100", f"history_size = {LINES}")
        config += f'\n[broker]\nkind = "redis"\n\n[redis]\nurl = "{redis.url}"\n'
        config = config.replace("[api]", f"[api]\nhistory_limit_max = {LINES}")
        gateway = Gateway(config)
        process = self.publish(gateway, "--file", "-", "--rate", "1000/s", stdin=subprocess.PIPE)
        process.stdin.write("".join(f"stream\t{number}\n" for number in range(LINES)))
        process.stdin.close()
        process.stdin = None
        deadline = time.monotonic() + SECONDS_MAX
        while history(gateway, "stream", 0).offset < LINES // 4:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        gateway.kill()
        gateway = Gateway(config, gateway.address)
        self.addCleanup(gateway.stop)
        out, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, out)
        # The program reports once that the gateway does not answer, and once that it does.
        self.assertEqual([line.rpartition("; ")[2][:11] for line in error.splitlines()], ["trying for ", "it answers "], error)
        self.assertNotIn("retried 0 requests", out)
        page = history(gateway, "stream")
        self.assertEqual([one.data for one in page.publications], list(range(LINES)))


class Token(LiveTestCase):
    def token(self, *arguments):
        environment = {**os.environ, "TIDEGATE_AUTH__HMAC_SECRET": SECRET}
        command = [BINARY, "token", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    async def test_printed_tokens_open_the_gateway_and_a_private_channel(self):
        gateway = Gateway()
        self.addCleanup(gateway.stop)
        info = json.dumps({"name": "Alice"})
        client, events = await self.connect_to(gateway, self.token("--user", "alice", "--ttl", "1m", "--info", info))
        await events.expect("connected")
        channel = f"$room-{uuid.uuid4()}"
        subscription_token = self.token("--user", "alice", "--channel", channel)
        subscription, events = await self.subscribe(client, channel, token=subscription_token)
        await events.expect("subscribed")
        clients = (await subscription.presence()).clients
        self.assertEqual([one.conn_info for one in clients.values()], [{"name": "Alice"}])
