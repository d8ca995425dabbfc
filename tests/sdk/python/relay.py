"""A TCP relay between a client and a gateway: a network that can be cut."""

import asyncio


class Relay:
    def __init__(self, gateway):
        self.target = gateway.address.split(":")
        self.open = True
        self.writers = set()
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.cut()
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def websocket(self):
        port = self.server.sockets[0].getsockname()[1]
        return f"ws://127.0.0.1:{port}/connection/websocket"

    def cut(self):
        """Drops every connection, and any new one until it is restored."""
        self.open = False
        for writer in self.writers:
            writer.transport.abort()

    def restore(self):
        self.open = True

    async def connect(self, reader, writer):
        if not self.open:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(*self.target)
        self.writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self.carry(source, sink))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def carry(self, source, sink):
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()
            self.writers.discard(sink)
