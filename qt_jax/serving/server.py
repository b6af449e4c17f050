"""The policy server: `openpi-client`'s websocket protocol; on the same port health, metrics and a page."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import math
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
from qt_jax.policy.observations import CANDIDATES, options
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.policy.runtime import check
from qt_jax.serving import messages, telemetry, wire
from qt_jax.serving.access import Access, cannot_listen
from qt_jax.serving.batching import Batcher, Timed
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.connection import CLOSE_S, Connection, close, quiet
from qt_jax.serving.dashboard import Dashboard, SessionKey
from qt_jax.serving.pages import Pages
from qt_jax.serving.policies import Policies, Served, check_same
from qt_jax.serving.recording import Label, Recorder
from qt_jax.serving.shadow import Shadow

PENDING_BYTES = 2**25
"""Bytes of one connection's requests that may wait for their replies."""
_NOT_REPLACED = ("superseded", "late")
"""Refusals at which a robot acts on a newer observation, or does what it does at a late reply."""


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


@dataclasses.dataclass(eq=False)
class _Peer:
    """A connection, the names of its sessions, and how many requests of each session are under way."""

    connection: ServerConnection
    number: int
    names: set[str | int | None] = dataclasses.field(default_factory=set)
    asking: collections.Counter = dataclasses.field(default_factory=collections.Counter)


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
        self._policies, self._spec, self._keys = policies, policies.spec, policies.keys
        self._access, self._limits, self._recorder = access or Access(), limits or Limits(), recorder
        if shadow is not None:
            check_same(self._spec, shadow.spec, shadow.about["artefact"])
        self._shadow = None if shadow is None else Shadow(shadow, self._compared)
        self._batcher = Batcher(policies, budget_s, recorder, self._shadow)
        self._metrics, self._log, self._dashboard = telemetry.Metrics(), telemetry.logger(), Dashboard()
        self._numbers = itertools.count()
        self._embedded: set[str] = set()
        self._open: set[ServerConnection] = set()
        self._pending = 0
        self._draining = False
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
        peer = _Peer(connection, number)
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
                self._close_session((number, name))
            self._log.info("disconnected", extra={"fields": {"connection": number, "address": address}})

    def _close_session(self, session: SessionKey) -> None:
        self._batcher.close_session(session)
        self._dashboard.close(session)

    async def _answer(self, peer: _Peer, message: bytes | str, overloaded: bool = False) -> None:
        """Sends one reply to one request: bytes, or text for an error."""
        start = time.perf_counter()
        echo: dict[str, Any] = {}  # what the reply repeats of the request
        reason = ""
        self._pending += 1

        try:
            reply: bytes | str = await self._reply(peer, message, overloaded, start, echo)
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

    async def _fall_back(self, session: SessionKey, code: str) -> np.ndarray | None:
        """Returns what the robot does after a refusal, if the policy's limits say so."""
        limits = self._spec.limits
        if limits is None or not limits.on_refused or code in _NOT_REPLACED:
            return None
        action = await asyncio.wrap_future(self._batcher.call(lambda: self._policies.fall_back(session)))
        if action is not None:
            self._metrics.limited.labels("refused").inc()
            self._dashboard.count(session, "refused")
        return action

    async def _reply(
        self, peer: _Peer, data: bytes | str, overloaded: bool, start: float, echo: dict[str, Any]
    ) -> bytes:
        if isinstance(data, str):
            raise Refused("malformed", "A text message; expected msgpack as a binary one.")
        message = wire.unpack(data)
        asked = options(message)
        echo |= {key: asked[key] for key in ("session_id", "request_id") if key in asked}
        if self._draining:
            raise Refused("shutting_down", "The server is shutting down; connect again later.")
        if overloaded:
            raise Refused("overloaded", "This connection waits for too many replies; read them first.")

        name = asked.get("session_id")
        session = (peer.number, name)
        if len(several := [key for key in ("values", "label", "close", CANDIDATES) if key in message]) > 1:
            raise Refused("bad_observation", f"Keys {several} are there at once; send one after the other.")
        if "values" in message:
            return wire.pack(await self._values(message["values"], session) | echo)
        if messages.closes(message):
            peer.names.discard(name)
            self._close_session(session)
            return wire.pack({"closed": True} | echo)
        if "label" in message:
            return wire.pack(await self._label(message, session) | echo)

        try:
            request = self._keys.request(message, session)
            recorder = self._recorder
            if recorder is not None and request.intervention is not None:
                # By itself: it is about the step before, whatever becomes of this observation.
                await asyncio.wrap_future(self._batcher.call(lambda: recorder.intervene(request)))
            deadline_ms = asked.get("deadline_ms", self._limits.deadline_ms) or math.inf
            timed = await self._act(peer, name, request, deadline_ms / 1000)
        except Refused as refused:
            refused.fallback = await self._fall_back(session, refused.code)
            raise
        total_ms = 1000 * (time.perf_counter() - start)
        # Noted only once the reply is on its way.
        asyncio.get_running_loop().call_soon(self._note, peer, name, request, timed, total_ms)
        return wire.pack(messages.decided(timed, asked, total_ms) | echo)

    async def _act(self, peer: _Peer, name: str | int | None, request: Request, deadline_s: float) -> Timed:
        peer.names.add(name)
        peer.asking[name] += 1
        try:
            return await asyncio.wrap_future(self._batcher.submit(request, deadline_s))
        except Refused:
            # A session that never acted is forgotten.
            if peer.asking[name] == 1 and request.session not in self._policies:
                peer.names.discard(name)
                self._batcher.forget(request.session)
            raise
        finally:
            peer.asking[name] -= 1
            if not peer.asking[name]:
                del peer.asking[name]

    def _note(
        self, peer: _Peer, name: str | int | None, request: Request, timed: Timed, total_ms: float
    ) -> None:
        """Adds an answer to the metrics, and a decision to the page."""
        self._metrics.infer.observe(timed.infer_s)
        self._metrics.queue.observe(timed.queue_s)
        self._metrics.batch.observe(timed.batch)
        if isinstance(timed.answer, Decision):
            self._metrics.decisions.labels(timed.answer.policy).inc()
            for one in timed.answer.limited:
                self._metrics.limited.labels(one.limit).inc()
        for limit, count in request.limited.items():
            self._metrics.limited_commands.labels(limit).inc(count)
        if name in peer.names and isinstance(timed.answer, Decision):
            self._dashboard.record((peer.number, name), request, timed.answer, total_ms)

    async def _values(self, instructions: Any, session: SessionKey) -> dict[str, Any]:
        if not messages.sentences(instructions):
            raise Refused(
                "bad_observation", f"Key 'values' holds no list of 1 to {messages.MAX_VALUES} sentences."
            )
        start = time.perf_counter()
        await self._embed(instructions)
        values = await asyncio.wrap_future(
            self._batcher.call(lambda: self._policies.values(session, instructions), long=True)
        )
        return {
            "values": values,
            "instructions": instructions,
            "server_timing": {"total_ms": 1000 * (time.perf_counter() - start)},
        }

    async def _embed(self, sentences: list[str]) -> None:
        """Embeds new sentences in another thread, so that the device serves robots meanwhile.

        The sentence of an observation is embedded on the device's thread instead, in the order of arrival.
        """
        if new := [sentence for sentence in sentences if sentence not in self._embedded]:
            with contextlib.suppress(UserError):
                await asyncio.to_thread(lambda: [self._policies.embedding(sentence) for sentence in new])
                self._embedded = {*new, *itertools.islice(self._embedded, 10_000)}

    async def _label(self, message: dict[str, Any], session: SessionKey) -> dict[str, Any]:
        """Writes the session's episode, and ends it."""
        recorder = self._recorder
        if recorder is None:
            raise Refused("not_recording", "This server records nothing; start it with --record DIR.")
        label = Label.read(message["label"])
        last = self._keys.request({key: value for key, value in message.items() if key != "label"}, session)
        try:
            check(
                self._spec,
                last.images,
                last.state,
                np.zeros(self._spec.interface.instruction_dim, np.float32),
                keys=last.keys,
            )
        except UserError as error:
            raise Refused("bad_observation", str(error)) from None

        steps = await asyncio.wrap_future(self._batcher.call(lambda: recorder.take(last)))
        self._close_session(session)
        recorded = await asyncio.to_thread(recorder.write, steps, last, label)
        self._policies.label(steps[-1].policy, label.success)
        self._metrics.labels.labels(steps[-1].policy, str(label.success).lower()).inc()
        return {"recorded": recorded}
