"""The policy server: `openpi-client`'s websocket protocol; on the same port health, metrics and a page."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused, Request
from qt_jax.serving import messages, telemetry, wire
from qt_jax.serving.access import Access, cannot_listen
from qt_jax.serving.answers import Answers, Peer
from qt_jax.serving.batching import Batcher
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.connection import CLOSE_S, Connection, close, quiet
from qt_jax.serving.dashboard import Dashboard
from qt_jax.serving.pages import Pages
from qt_jax.serving.policies import Policies, Served, check_same
from qt_jax.serving.recording import Recorder
from qt_jax.serving.shadow import Shadow

PENDING_BYTES = 2**25
"""Bytes of one connection's requests that may wait for their replies."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What clients may use of the server.

    Attributes:
        connections: how many may be open at a time.
        open_timeout_s: seconds for the handshake.
        idle_timeout_s: seconds without a message after which a connection is closed.
        ping_s: seconds between two pings, and within which one must be answered. A client that has vanished
            is let go after both.
        deadline_ms: deadline of requests that name none; 0: none.
        pending: how many requests of one connection may wait for their replies.
        drain_s: seconds that the server, when it ends, gives the requests under way.

    """

    connections: int = 256
    open_timeout_s: float = 10.0
    idle_timeout_s: float = 600.0
    ping_s: float = 20.0
    deadline_ms: float = 0.0
    pending: int = 256
    drain_s: float = 5.0


class Server:
    """Serves policies, while `listening` is entered.

    Args:
        policies: what acts.
        access: who may connect; default: everybody on this machine.
        limits: what clients may use.
        budget_s: seconds that a request may wait for those of other robots, to share a batch.
        recorder: keeps labelled episodes; None: nothing is recorded.
        shadow: a policy whose actions are compared and never sent; None: there is none.

    Raises:
        UserError: if the shadow is of another robot.

    """

    def __init__(
        self,
        policies: Policies,
        *,
        access: Access | None = None,
        limits: Limits | None = None,
        budget_s: float = 0.002,
        recorder: Recorder | None = None,
        shadow: Served | None = None,
    ):
        self._policies, self._spec = policies, policies.spec
        self._access, self._limits, self._recorder = access or Access(), limits or Limits(), recorder
        if shadow is not None:
            check_same(self._spec, shadow.spec, shadow.about["artefact"])
        self._shadow = None if shadow is None else Shadow(shadow, self._compared)
        self._batcher = Batcher(policies, budget_s, recorder, self._shadow)
        self._metrics, self._log, self._dashboard = telemetry.Metrics(), telemetry.logger(), Dashboard()
        self._numbers = itertools.count()
        self._open: set[ServerConnection] = set()
        self._pending = 0
        self._draining = False
        self._answers = Answers(
            policies, self._batcher, recorder, self._metrics, self._dashboard, self._limits.deadline_ms
        )
        self._pages = Pages(self._access, self._metrics, self._dashboard, policies, self._shadow)

    @contextlib.asynccontextmanager
    async def listening(
        self,
        host: str,
        port: int,
        tls: Certificate | None = None,
        unix: socket.socket | None = None,
    ) -> AsyncIterator[WebsocketServer]:
        """Accepts connections on entry; answers what is under way on exit, then closes.

        Args:
            host: address to listen on.
            port: port to listen on; 0: a free one.
            tls: the certificate; None: without TLS.
            unix: bound Unix socket to listen on in the place of host and port.

        Yields:
            The websocket server, whose sockets have the port.

        Raises:
            UserError: if the port cannot be bound.

        """
        where: dict[str, Any] = {"host": host, "port": port}
        if unix is not None:
            where = {"unix": True, "sock": unix}
        try:
            server = await serve(
                self._connected,
                **where,
                ssl=tls and tls.context,
                process_request=self._http,
                compression=None,
                max_size=messages.largest(self._spec),
                max_queue=4,
                open_timeout=self._limits.open_timeout_s,
                close_timeout=CLOSE_S,
                ping_interval=self._limits.ping_s,
                ping_timeout=self._limits.ping_s,
                server_header=None,
                create_connection=Connection,
                logger=quiet(),
            )
        except OSError as error:
            raise cannot_listen(host, port, error) from error

        watching = None
        if tls is not None:
            self._metrics.show_expiry(lambda: tls.expires)
            watching = asyncio.create_task(tls.watch(self._log))
        try:
            yield server
        finally:
            await self._drain(server)
            if watching is not None:
                watching.cancel()

    def replace(self, place: int, new: Served) -> None:
        """Has a newer policy begin the episodes in the place of an older one.

        Raises:
            UserError: see `Policies.replace`; the older one stays.

        """
        self._batcher.call(lambda: self._policies.replace(place, new)).result()

    def reloaded(self, what: str, error: Exception | None) -> None:
        """Logs and counts what was read again while the server serves, or why it was not."""
        result, fields = "loaded" if error is None else "refused", {"what": what}
        self._metrics.reloads.labels(what, result).inc()
        if error is None:
            self._log.info("reloaded", extra={"fields": fields})
        else:
            reason = str(error) if isinstance(error, UserError) else repr(error)
            self._log.warning("not reloaded", extra={"fields": fields | {"reason": reason}})

    async def _drain(self, server: WebsocketServer) -> None:
        self._draining = True
        end = time.monotonic() + self._limits.drain_s
        while self._pending and time.monotonic() < end:
            await asyncio.sleep(0.01)

        server.close()
        try:
            async with asyncio.timeout(2 * CLOSE_S):
                await server.wait_closed()
        except TimeoutError:  # a client that does not read keeps the library waiting
            for connection in self._open:
                connection.transport.abort()
            await server.wait_closed()
        if self._shadow is not None:  # first: what it still says is recorded by the other thread
            await asyncio.to_thread(self._shadow.stop)
        await asyncio.to_thread(self._batcher.stop)

    def _compared(self, request: Request, code: str, actions: np.ndarray | None) -> None:
        """Counts and records what the shadow would have done."""
        self._metrics.shadow.labels(code).inc()
        recorder = self._recorder
        if recorder is not None and actions is not None:
            self._batcher.call(lambda: recorder.shadow(request, actions))

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        full = len(self._open) >= self._limits.connections
        return self._pages.answer(connection, request, draining=self._draining, full=full)

    async def _connected(self, connection: ServerConnection) -> None:
        number, address = next(self._numbers), connection.remote_address
        self._open.add(connection)
        self._metrics.connections.inc()
        self._log.info("connected", extra={"fields": {"connection": number, "address": address}})
        peer = Peer(connection, number)
        waiting: dict[asyncio.Task, int] = {}  # {an answer under way: bytes of its request}

        try:
            async with asyncio.timeout(self._limits.idle_timeout_s):
                await connection.send(wire.pack(self._policies.describe()))
            while True:
                await asyncio.sleep(0)  # gives other connections their turn, however many messages wait here
                async with asyncio.timeout(self._limits.idle_timeout_s):
                    message = await connection.recv()
                    held = sum(waiting.values())
                    if len(waiting) >= self._limits.pending or (held and held + len(message) > PENDING_BYTES):
                        # Not in a task: a client that does not read its replies is not read either.
                        await self._answer(peer, message, overloaded=True)
                        continue
                task = asyncio.create_task(self._answer(peer, message))
                waiting[task] = len(message)
                task.add_done_callback(waiting.pop)
        except TimeoutError:
            await close(connection, "idle", 2 * CLOSE_S)
        except ConnectionClosed:
            pass
        finally:
            self._open.discard(connection)
            self._metrics.connections.dec()
            await asyncio.gather(*waiting)  # a request under way would open its session again
            for name in peer.names:
                self._answers.close((number, name))
            self._log.info("disconnected", extra={"fields": {"connection": number, "address": address}})

    async def _answer(self, peer: Peer, message: bytes | str, overloaded: bool = False) -> None:
        """Sends one reply to one request: bytes, or text for an error."""
        start = time.perf_counter()
        echo: dict[str, Any] = {}  # what the reply repeats of the request
        reason = ""
        self._pending += 1

        try:
            reply: bytes | str = await self._answers.reply(
                peer, message, self._refusal(overloaded), start, echo
            )
            code = "ok"
        except Refused as refused:
            code, reason = refused.code, str(refused)
            reply = messages.error(refused, echo)
        except Exception:
            self._log.exception("a request failed", extra={"fields": {"connection": peer.number}})
            code = "internal"
            reply = messages.error(
                Refused(code, "The server failed at this request; its log says why."), echo
            )
        finally:
            self._pending -= 1
        del message  # while the client does not read the reply, its request takes no memory

        with contextlib.suppress(ConnectionClosed):
            await peer.connection.send(reply)
        self._metrics.replies.labels(code).inc()
        self._metrics.total.observe(time.perf_counter() - start)
        if code != "ok":
            fields = {"connection": peer.number, "code": code, "reason": reason[:200], **echo}
            self._log.info("refused", extra={"fields": fields})

    def _refusal(self, overloaded: bool) -> Refused | None:
        if self._draining:
            return Refused("shutting_down", "The server is shutting down; connect again later.")
        if overloaded:
            return Refused("overloaded", "This connection waits for too many replies; read them first.")
        return None
