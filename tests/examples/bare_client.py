"""A client with `websockets`: sends each line of its input, a JSON string, and prints each message as a JSON string."""

import asyncio
import json
import sys

import websockets


async def main(url):
    async with websockets.connect(url) as socket:
        print(json.dumps({"open": True}), flush=True)

        async def say():
            while line := await asyncio.to_thread(sys.stdin.readline):
                await socket.send(json.loads(line))
            await socket.close()

        saying = asyncio.create_task(say())
        async for message in socket:
            print(json.dumps(message), flush=True)
        await saying


asyncio.run(main(sys.argv[1]))
