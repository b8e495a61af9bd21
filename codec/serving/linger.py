"""The end of a connection. Closing a socket while bytes of the other side are unread resets it, and the other side then loses
what it was told last: why, and with which code."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

CHUNK = 1 << 16  # bytes that are thrown away at once
PAUSE = 1.0  # seconds without any that say that no more will come


class Linger:
    """Keeps a connection open, when its transport is closed, until the other side has closed it, too.

    Made while the transport is open, of its socket. It must be ended by `finish`.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        connection = transport.get_extra_info("socket")
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError, AttributeError):  # gone already; no socket
            self._socket = connection.dup()

    async def finish(self, seconds: float, answered: bool) -> None:
        """Closes the transport, throws away what still comes, and cuts off who has not closed after so many seconds.

        answered: whether the other side has said goodbye. If not, it is waited for, as long as it has `PAUSE` to think: many a
        client that finds the connection closed before it could answer takes that for a failure.
        """
        try:
            await asyncio.wait_for(self._drain(answered), seconds)
        except (asyncio.TimeoutError, OSError):
            with contextlib.suppress(OSError, AttributeError):  # at once, whatever the kernel still holds
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            self._transport.abort()
            if self._socket is not None:
                self._socket.close()

    async def _drain(self, answered: bool) -> None:
        self._transport.close()
        while self._transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        if self._socket is None:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            while not answered and await asyncio.wait_for(self._read(), PAUSE):
                pass
        self._socket.shutdown(socket.SHUT_WR)
        while await self._read():
            pass

    async def _read(self) -> bool:
        await asyncio.sleep(0)  # others have their turn, however much there is
        return bool(await asyncio.get_running_loop().sock_recv(self._socket, CHUNK))
