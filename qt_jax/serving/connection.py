"""A connection that holds little for a client that does not read, and answers whatever comes."""

from __future__ import annotations

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage

UNREAD_BYTES = 2**22
"""More that its client does not take, and the connection is cut off."""

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(ServerConnection):
    """Adds to the library's: pongs to a client that reads nothing do not pile up; what is no HTTP request, or
    has a body, gets an answer before it is closed.
    """

    _told = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            self.transport.abort()

    def send_data(self) -> None:
        if isinstance(self.protocol.handshake_exc, InvalidMessage) and not self._told:
            self._told = True
            self.transport.write(_BAD_REQUEST)
        super().send_data()
