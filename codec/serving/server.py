"""The websocket server of `codec serve`, and its page. docs/serving.md describes the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from aiohttp import ClientError, WSCloseCode, WSMessage, WSMsgType, web

from codec.model import Codec
from codec.serving import protocol
from codec.serving.batcher import Batcher, Full
from codec.serving.linger import Linger
from codec.serving.live_stream import LiveStream, SlowReader
from codec.serving.origin import allowed
from codec.serving.protocol import ProtocolError, Wire

MAX_MESSAGE = 1 << 18  # bytes
NETWORK_BUFFER = 1 << 15  # bytes that may wait in the network in either direction, about: nobody can take them back
HELLO_TIME = 10.0  # seconds for the hello
CLOSE_TIME = 2.0  # seconds in which a client must take what it is told when something is wrong
END_TIME = 10.0  # seconds in which a client must take the rest of a stream that has ended
HEARTBEAT = 60.0  # seconds between pings; a client that does not answer within half of that is gone
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}  # s, s, times: its kernel is asked sooner, even while this
# process gets no time, as a ping that is answered late would end a stream


class Stopping(RuntimeError):
    """The server is being stopped."""


class Server:
    """Streams of some models over websockets.

    Args:
        models: clients choose by name; the first by default.
        max_streams: of all clients together.
        max_wait, patience: see `Batcher`.
        origins: of pages, besides its own, from which browsers may open streams, as https://example.com; `*` for all.

    Raises ValueError for models of one name, and models that cannot run live.
    """

    def __init__(
        self, models: Sequence[Codec], max_streams: int = 64, max_wait: float = 0.01, patience: float = 5.0,
        origins: Collection[str] = (),
    ):
        self._executor = ThreadPoolExecutor(1, "codec")
        self._batchers = {
            model.config.name: Batcher(model, max_streams, max_wait, patience, self._executor) for model in models
        }
        if len(self._batchers) < len(models):
            raise ValueError("two models have the same name: a client could not choose between them")
        self._descriptions = {model.config.name: protocol.describe(model) for model in models}
        self.max_streams, self.origins = max_streams, origins
        self._closing: set[asyncio.Task[None]] = set()
        self._sockets: dict[web.WebSocketResponse, LiveStream | None] = {}
        self._stopping = asyncio.Event()

    def app(self) -> web.Application:
        """`/` is the page, `/info` tells the models, `/stream` is the websocket."""
        app = web.Application()
        app.add_routes([web.get("/", self._page), web.get("/info", self._info), web.get("/stream", self._stream)])
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._stop)
        return app

    @property
    def streams(self) -> int:
        """How many are open."""
        return sum(len(batcher) for batcher in self._batchers.values())

    async def _running(self, _: web.Application) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._executor.shutdown)
            for batcher in self._batchers.values():
                await stack.enter_async_context(batcher)
            yield

    async def _stop(self, _: web.Application) -> None:
        """Clients are told, and have a moment to hear it."""
        self._stopping.set()
        for _ in range(int(20 * CLOSE_TIME)):
            if not self._sockets and not self._closing:
                break
            await asyncio.sleep(0.05)

    async def _stopped(self) -> None:
        await self._stopping.wait()
        raise Stopping("the server is being stopped")

    async def _page(self, _: web.Request) -> web.Response:
        page = resources.files("codec.serving").joinpath("page.html").read_text("utf-8")
        return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-cache"})

    async def _info(self, _: web.Request) -> web.Response:
        models = list(self._descriptions.values())
        return web.json_response({"models": models, "streams": self.streams, "max_streams": self.max_streams})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not allowed(request.headers.get("Origin"), request.host, self.origins):
            return web.Response(status=403, text="this page may not use this server: start it with --origin to let it\n")
        ws = web.WebSocketResponse(
            compress=False, max_msg_size=MAX_MESSAGE, heartbeat=HEARTBEAT, timeout=CLOSE_TIME,
            writer_limit=NETWORK_BUFFER // 4,
        )
        try:
            await ws.prepare(request)
        except ConnectionError:  # gone before the handshake
            return ws
        transport = request.transport
        if transport is None:  # gone already
            return ws
        transport.set_write_buffer_limits(NETWORK_BUFFER // 4)
        with contextlib.suppress(OSError, AttributeError):  # gone by now; no socket
            _set_up(transport.get_extra_info("socket"))
        full, linger = len(self._sockets) >= self.max_streams, Linger(transport)
        try:
            if full:
                raise Full(f"the server is full: all {self.max_streams} streams are in use, try again later")
            self._sockets[ws] = None
            await self._talk(ws)
        except (ValueError, RuntimeError) as error:
            await self._tell(ws, error)
        except (ConnectionError, ClientError, asyncio.TimeoutError):
            pass
        finally:
            self._sockets.pop(ws, None)
            answered = ws.close_code not in (None, WSCloseCode.ABNORMAL_CLOSURE)
            seconds = END_TIME if ws.close_code == protocol.NORMAL else CLOSE_TIME
            ending = asyncio.create_task(linger.finish(seconds, answered))
            self._closing.add(ending)
            ending.add_done_callback(self._closing.discard)
        return ws

    async def _talk(self, ws: web.WebSocketResponse) -> None:
        try:
            message = await asyncio.wait_for(_first(ws.receive(), self._stopped()), HELLO_TIME)
        except asyncio.TimeoutError:
            raise ProtocolError(f"no hello within {HELLO_TIME:g} s") from None
        if message.type is WSMsgType.BINARY:
            raise ProtocolError("a binary message before the hello")
        if message.type is not WSMsgType.TEXT:
            return
        hello = protocol.parse_hello(message.data)
        name = next(iter(self._batchers)) if hello.model is None else hello.model
        if name not in self._batchers:
            raise ProtocolError(f"hello: model {name[:40]!r} is not served here: there is {', '.join(self._batchers)}")
        batcher = self._batchers[name]
        with batcher.open(hello.direction, hello.codebooks) as stream:
            self._sockets[ws] = stream
            ready = {"type": "ready", "direction": hello.direction, "format": hello.format, "codebooks": stream.num_codebooks}
            await ws.send_json(ready | self._descriptions[name])
            wire = Wire(batcher.model, hello.format)
            done = await _first(_read(ws, stream, wire), _write(ws, stream, wire), stream.closed(), self._stopped())
        if done is not None:  # nobody reads now: closing would end the reader, and that the closing
            await asyncio.wait_for(_close(ws, protocol.NORMAL, done), END_TIME)

    async def _tell(self, ws: web.WebSocketResponse, error: Exception) -> None:
        """The reason as a message, and a code; a client that takes neither is cut off."""
        codes = {ProtocolError: protocol.PROTOCOL, ValueError: protocol.PROTOCOL, Full: protocol.FULL,
                 SlowReader: protocol.SLOW, Stopping: protocol.GOING_AWAY}
        code = codes.get(type(error), protocol.FAILED)
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError, ClientError):
            await asyncio.wait_for(_close(ws, code, {"type": "error", "reason": " ".join(str(error).split())}), CLOSE_TIME)


def _set_up(connection: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, NETWORK_BUFFER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, number in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), number)


async def _first(*works: Coroutine[Any, Any, Any]) -> Any:
    """The result of what is done first; the others are cancelled. Raises what any of them has raised by then."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return next(task.result() for task in tasks if task in done)


async def _read(ws: web.WebSocketResponse, stream: LiveStream, wire: Wire) -> None:
    """What the client sends, until it is gone."""
    ended = False
    while True:
        message: WSMessage = await ws.receive()
        if message.type is WSMsgType.BINARY:
            if ended:
                raise ProtocolError("a binary message after the end")
            await stream.send(wire.unpack(message.data, stream.direction == "decode"))
        elif message.type is WSMsgType.TEXT:
            ended = _order(protocol.parse_object(message.data), stream) or ended
        else:
            return


def _order(fields: dict[str, Any], stream: LiveStream) -> bool:
    """Follow a text message; whether it ends the stream."""
    if fields == {"type": "end"}:
        stream.end()
        return True
    if set(fields) == {"type", "codebooks"} and fields["type"] == "codebooks" and type(fields["codebooks"]) is int:
        stream.num_codebooks = fields["codebooks"]
        return False
    raise ProtocolError('a text message after the hello is {"type": "end"} or {"type": "codebooks", "codebooks": K}')


async def _write(ws: web.WebSocketResponse, stream: LiveStream, wire: Wire) -> dict[str, Any]:
    """What comes out to the client, and then the last message; the samples of `both` are as many as went in."""
    written = 0
    async for output in stream:
        if output.codes is not None and output.codes.shape[1]:
            await ws.send_bytes(wire.tokens(output.codes))
        if output.samples is not None:
            samples = output.samples[: stream.samples_due - written]
            written += len(samples)
            if len(samples):
                await ws.send_bytes(wire.samples(samples))
    frames = stream.frames_in if stream.direction == "decode" else stream.frames_out
    return {"type": "done", "frames": frames, "samples_in": stream.samples_in, "samples_out": written}


async def _close(ws: web.WebSocketResponse, code: int, fields: dict[str, Any]) -> None:
    await ws.send_str(json.dumps(fields))
    await ws.close(code=code, message=fields.get("reason", "")[:100].encode()[:120])


async def serve(server: Server, host: str, port: int, started: Callable[[str], None] = lambda _: None) -> None:
    """Run until SIGINT or SIGTERM; clients are told. `started` is given the address. Raises OSError for a port in use."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels
            loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_TIME)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        name = f"[{host}]" if ":" in host else host
        started(f"http://{name}:{runner.addresses[0][1]}")
        await stop.wait()
    finally:
        await runner.cleanup()
