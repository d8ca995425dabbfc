"""Generic readers of server-sent events, each used in its usual way."""

import httpx
import requests
import sseclient
from httpx_sse import connect_sse


class Httpx:
    """httpx-sse."""

    def __init__(self, url, headers):
        self.client = httpx.Client(timeout=20)
        self.source = connect_sse(self.client, "GET", url, headers=headers)
        events = self.source.__enter__()
        self.status = events.response.status_code
        self.events = ((event.event, event.data, event.id) for event in events.iter_sse())

    def close(self):
        self.source.__exit__(None, None, None)
        self.client.close()


class SseClient:
    """sseclient-py, over requests."""

    def __init__(self, url, headers):
        self.response = requests.get(url, headers=headers, stream=True, timeout=20)
        self.status = self.response.status_code
        events = sseclient.SSEClient(self.response).events()
        self.events = ((event.event, event.data, event.id) for event in events)

    def close(self):
        self.response.close()


READERS = (Httpx, SseClient)
