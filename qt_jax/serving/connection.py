"""The server's connection: it limits what a client leaves unread, and answers requests that are no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage

CLOSE_S = 2.0
"""Seconds for a closing handshake, and for the replies before it; then the connection is cut off."""
UNREAD_BYTES = 2**22
"""Bytes that a client may leave unread; with more the connection is cut off."""

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(ServerConnection):
    """Adds two things to the library's connection.

    Pongs to a client that reads nothing do not pile up. A request that is no HTTP, or has a body, gets
    an answer before its connection is closed.
    """

    _answered = False

    def data_received(self, data: bytes) -> None:
        """Handles bytes from the client, and cuts it off if too much waits to be sent to it."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.transport.abort()

    def send_data(self) -> None:
        """Sends what the protocol has to send, after a 400 if the handshake could not be read."""
        if isinstance(self.protocol.handshake_exc, InvalidMessage) and not self._answered:
            self._answered = True
            self.transport.write(_BAD_REQUEST)
        super().send_data()


async def close(connection: ServerConnection, reason: str, timeout_s: float) -> None:
    """Closes a connection; cuts it off if the closing handshake takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await connection.close(1000, reason)
    connection.transport.abort()


def quiet() -> logging.Logger:
    """Returns a logger that drops the library's lines, which report strangers' broken handshakes."""
    log = logging.getLogger("qt_jax.websockets")
    log.setLevel(logging.CRITICAL)
    return log
