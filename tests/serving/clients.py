"""A server in the process of a test, and clients of it."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
from aiohttp import web

from codec.serving.protocol import Wire
from codec.serving.server import Server


class Site:
    """A server that runs, and a session of clients."""

    def __init__(self, server: Server, address: str, session: aiohttp.ClientSession):
        self.server, self.address, self._session = server, address, session

    def connect(self, **options):
        return self._session.ws_connect(f"{self.address}/stream", max_msg_size=0, **options)

    def get(self, path: str):
        return self._session.get(self.address + path)

    async def until(self, streams: int, seconds: float = 5.0) -> None:
        for _ in range(int(seconds / 0.01)):
            if self.server.streams == streams and len(self.server._sockets) == streams:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.server.streams} streams instead of {streams}")


@asynccontextmanager
async def serving(*models, **options):
    server = Server(models, **options)
    runner = web.AppRunner(server.app(), handler_cancellation=True, shutdown_timeout=2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(server, f"http://127.0.0.1:{runner.addresses[0][1]}", session)
    finally:
        await runner.cleanup()


def samples(wav: np.ndarray, dtype: str = "<i2") -> bytes:
    """As a message, written down here again."""
    return bytes([1, 0, 0, 0]) + (np.rint(wav * 32768) if dtype == "<i2" else wav).astype(dtype).tobytes()


async def hello(ws, **fields) -> dict:
    await ws.send_json({"type": "hello", **fields})
    answer = await ws.receive_json(timeout=10)
    assert answer["type"] == "ready", answer
    return answer


async def rest(ws, model, format: str = "s16le") -> tuple[list[np.ndarray], list[np.ndarray], dict, int]:
    """All that comes until the end: codes, samples, the last text message, and the code of closing."""
    wire, codes, wavs, last = Wire(model, format), [], [], {}
    async for message in ws:
        if message.type is aiohttp.WSMsgType.TEXT:
            last = json.loads(message.data)
        else:
            kind = struct.unpack_from("<BBH", message.data)[0]
            (wavs if kind == 1 else codes).append(wire.unpack(message.data, kind == 2))
    return codes, wavs, last, ws.close_code
