"""The policy server: the websocket protocol of `openpi-client`, and on the same port health, metrics and a page for people."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import math
import ssl
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

import qt_jax
from qt_jax.errors import UserError
from qt_jax.serving import telemetry, wire
from qt_jax.serving.access import Access, cannot_listen
from qt_jax.serving.batching import Batcher, Timed
from qt_jax.serving.live import Live
from qt_jax.serving.observations import MAX_PROMPT, Keys, options
from qt_jax.serving.recording import Recorder
from qt_jax.serving.runtime import check
from qt_jax.serving.sessions import Refused, Request, Sessions

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": ("index.html", "text/html"), "/page.js": ("page.js", "text/javascript"), "/page.css": ("page.css", "text/css"),
              "/charts.js": ("charts.js", "text/javascript")}  # fmt: skip
CONTENT_SECURITY_POLICY = "; ".join(
    [*(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
     *(f"{kind} 'none'" for kind in ("default-src", "base-uri", "form-action", "frame-ancestors"))]
)  # fmt: skip
MAX_VALUES = 1000


@dataclasses.dataclass(frozen=True)
class Limits:
    """connections: at a time. open_timeout_s: for the handshake. idle_timeout_s: without a message, then the connection is closed.
    deadline_ms: of requests that name none (0: none). pending: requests of one connection without a reply yet. drain_s: at the end."""

    connections: int = 256
    open_timeout_s: float = 10.0
    idle_timeout_s: float = 600.0
    deadline_ms: float = 0.0
    pending: int = 256
    drain_s: float = 5.0


class Server:
    """Serves one policy until `stop` is called.

    Args:
        about: what the metadata says of the policy beside its specs.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        about: dict[str, Any],
        keys: Keys | None = None,
        access: Access | None = None,
        limits: Limits | None = None,
        budget_s: float = 0.002,
        recorder: Recorder | None = None,
    ):
        self._sessions, self._spec = sessions, sessions.policy.spec
        self._keys = keys or Keys.default(self._spec.observation)
        self._access, self._limits, self._recorder = access or Access(), limits or Limits(), recorder
        self._batcher = Batcher(sessions, budget_s, recorder)
        self._metrics, self._log, self._live = telemetry.Metrics(), telemetry.logger(), Live()
        self._numbers, self._told = itertools.count(), set()
        self._open = self._pending = 0
        self._draining = False
        self.metadata = about | {
            "server": f"qt_jax {qt_jax.__version__}",
            "observation": self._keys.describe(self._spec.observation),
            "instruction_embedding": {
                "instead_of": self._keys.prompt,
                "shape": [self._spec.instruction_dim],
                "text_encoder": self._spec.text_encoder,
            },
            "action": dataclasses.asdict(self._spec.action),
            "score": self._spec.score_name,
            "control_period_s": self._spec.dt,
            "window": self._spec.window,
            "sessions": sessions.limit,
            "begin_an_episode": "connect anew, or send reset: true with its first observation",
        }

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> Any:
        """Accepts connections on entry; on exit it answers what is under way, then closes. Gives the websocket server.

        Raises:
            UserError: if the port cannot be bound.
        """
        observation = self._spec.observation
        image = math.prod(observation.image_size) * 3
        # 8 bytes a number: images that are floats by mistake are read, and refused by name.
        largest = 8 * (len(observation.cameras) * image + observation.state_dim + self._spec.instruction_dim) + 2**16
        try:
            server = await serve(
                self._connected, host, port, ssl=tls, process_request=self._http, compression=None, max_size=largest, max_queue=16,
                open_timeout=self._limits.open_timeout_s, ping_interval=20, ping_timeout=20, server_header=None,
                logger=_quiet(),
            )  # fmt: skip
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        try:
            yield server
        finally:
            await self._drain(server)

    async def _drain(self, server: WebsocketServer) -> None:
        self._draining = True
        end = time.monotonic() + self._limits.drain_s
        while self._pending and time.monotonic() < end:
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()
        await asyncio.to_thread(self._batcher.stop)

    # HTTP

    def _http(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """None lets a websocket's handshake go on."""
        refusal = self._access.refusal(request.headers)
        path = request.path.partition("?")[0]
        if path == "/healthz" and (refusal is None or refusal[0] == 401):
            return _response(503, "text/plain", b"shutting down\n") if self._draining else _response(200, "text/plain", b"OK\n")
        if refusal is not None:
            self._metrics.refused.labels(refusal[0]).inc()
            return _response(refusal[0], "text/plain", refusal[1].encode() + b"\n")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            if self._draining or self._open >= self._limits.connections:
                self._metrics.refused.labels(503).inc()
                return _response(503, "text/plain", b"The server is full or shutting down; try again later.\n")
            return None
        if path == "/metrics":
            self._metrics.sessions.set(len(self._sessions))
            return _response(200, "text/plain; version=0.0.4", self._metrics.text())
        if path == "/live" or path.startswith("/live/"):
            wanted = path.removeprefix("/live").removeprefix("/")
            return _response(200, "application/json", json.dumps(self._live.summary(self.metadata, wanted)).encode())
        if path.startswith("/frames/"):
            frame = self._live.frame(path.removeprefix("/frames/"))
            return _response(404, "text/plain", b"No such frame.\n") if frame is None else _response(200, "application/octet-stream", frame)
        if path in PAGE_FILES:
            name, kind = PAGE_FILES[path]
            return _response(200, f"{kind}; charset=utf-8", (PAGE / name).read_bytes())
        return _response(404, "text/plain", b"Nothing here; the page is at /.\n")

    # Websocket

    async def _connected(self, connection: ServerConnection) -> None:
        number, address = next(self._numbers), connection.remote_address
        self._open += 1
        self._metrics.connections.inc()
        self._log.info("connected", extra={"fields": {"connection": number, "address": address}})
        names: set[Any] = set()
        tasks: set[asyncio.Task] = set()
        try:
            await connection.send(wire.pack(self.metadata))
            while True:
                async with asyncio.timeout(self._limits.idle_timeout_s):
                    message = await connection.recv()
                task = asyncio.create_task(self._answer(connection, number, message, names, len(tasks)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except TimeoutError:
            await connection.close(1000, "idle")
        except ConnectionClosed:
            pass
        finally:
            self._open -= 1
            self._metrics.connections.dec()
            await asyncio.gather(*tasks)  # a request under way would open its session again
            for name in names:
                self._close_session((number, name))
            self._log.info("disconnected", extra={"fields": {"connection": number, "address": address}})

    def _close_session(self, session: Any) -> None:
        self._batcher.close_session(session)
        self._live.close(session)

    async def _answer(self, connection: ServerConnection, number: int, message: bytes | str, names: set[Any], pending: int) -> None:
        """One request, one reply: bytes, or text for an error."""
        start, echo = time.perf_counter(), {}
        self._pending += 1
        try:
            reply: bytes | str = await self._reply(number, message, names, pending, start, echo)
            code = "ok"
        except Refused as refused:
            code = refused.code
            reply = _error(code, str(refused), refused.in_history, echo)
        except Exception:
            self._log.exception("a request failed", extra={"fields": {"connection": number}})
            code = "internal"
            reply = _error(code, "The server failed at this request; its log says why.", False, echo)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(reply)
        self._pending -= 1
        self._metrics.replies.labels(code).inc()
        self._metrics.total.observe(time.perf_counter() - start)
        if code != "ok":
            self._log.info("refused", extra={"fields": {"connection": number, "code": code, **echo}})

    async def _reply(self, number: int, data: bytes | str, names: set[Any], pending: int, start: float, echo: dict[str, Any]) -> bytes:
        if isinstance(data, str):
            raise Refused("malformed", "A text message; expected msgpack as a binary one.")
        message = wire.unpack(data)
        asked = options(message)
        echo |= {key: asked[key] for key in ("session_id", "request_id") if key in asked}
        if self._draining:
            raise Refused("shutting_down", "The server is shutting down; connect again later.")
        if pending >= self._limits.pending:
            raise Refused("overloaded", f"This connection waits for {pending} replies already.")
        name = asked.get("session_id")
        session = (number, name)
        if "values" in message:
            return wire.pack(await self._values(message["values"], session) | echo)
        if message.pop("close", None) is True:
            names.discard(name)
            self._close_session(session)
            return wire.pack({"closed": True} | echo)
        if "label" in message:
            return wire.pack(await self._label(message, session) | echo)
        request = self._keys.request(message, session)
        names.add(name)
        deadline_ms = asked.get("deadline_ms", self._limits.deadline_ms) or math.inf
        try:
            timed: Timed = await asyncio.wrap_future(self._batcher.submit(request, deadline_ms / 1000))
        except Refused as refused:
            if refused.code == "sessions_full":
                names.discard(name)
                self._batcher.forget(session)
            raise
        total_ms = 1000 * (time.perf_counter() - start)
        asyncio.get_running_loop().call_soon(self._note, request, timed, total_ms, names)  # once the reply is on its way
        return wire.pack(_decided(timed, asked, total_ms) | echo)

    def _note(self, request: Request, timed: Timed, total_ms: float, names: set[Any]) -> None:
        """For the page and the metrics."""
        self._metrics.infer.observe(timed.infer_s)
        self._metrics.queue.observe(timed.queue_s)
        self._metrics.batch.observe(timed.batch)
        if request.session[1] in names:
            self._live.record(request, timed.decision, total_ms)

    async def _values(self, instructions: Any, session: Any) -> dict[str, Any]:
        if not _sentences(instructions):
            raise Refused("bad_observation", f"Key 'values' holds no list of 1 to {MAX_VALUES} sentences.")
        start = time.perf_counter()
        await self._embed(instructions)
        values = await asyncio.wrap_future(self._batcher.call(lambda: self._sessions.values(session, instructions), long=True))
        return {"values": values, "instructions": instructions, "server_timing": {"total_ms": 1000 * (time.perf_counter() - start)}}

    async def _embed(self, sentences: list[str]) -> None:
        """New ones while the device serves other robots (an observation's own is embedded there, in the order of arrival)."""
        if new := [sentence for sentence in sentences if sentence not in self._told]:
            with contextlib.suppress(UserError):
                await asyncio.to_thread(lambda: [self._sessions.embedding(sentence) for sentence in new])
                self._told = {*new, *itertools.islice(self._told, 10_000)}

    async def _label(self, message: dict[str, Any], session: Any) -> dict[str, Any]:
        """Writes the episode, and ends it."""
        if self._recorder is None:
            raise Refused("not_recording", "This server records nothing; start it with --record DIR.")
        label = message["label"] if isinstance(message["label"], dict) else {}
        success, task = label.get("success"), label.get("task", "")
        if not isinstance(success, bool) or not isinstance(task, str) or len(task) > 100:
            told = "{'success': true or false, 'task': its name of at most 100 letters, if you like}"
            raise Refused("bad_observation", f"Key 'label' is {str(message['label'])[:100]!r}, expected {told}.")
        last = self._keys.request({key: value for key, value in message.items() if key != "label"}, session)
        try:
            check(self._spec, last.images, last.state, np.zeros(self._spec.instruction_dim, np.float32))
        except UserError as error:
            raise Refused("bad_observation", str(error)) from None
        steps = await asyncio.wrap_future(self._batcher.call(lambda: self._recorder.take(session)))
        self._close_session(session)
        return {"recorded": await asyncio.to_thread(self._recorder.write, steps, last, success, task)}


def _decided(timed: Timed, asked: dict[str, Any], total_ms: float) -> dict[str, Any]:
    """The reply with an action."""
    decision, infer_ms = timed.decision, 1000 * timed.infer_s
    reply = {
        "actions": decision.action[None],
        "tokens": decision.tokens,
        "scores_of_dims": decision.chosen,
        "score": decision.score,
        "step": decision.step,
        "policy_timing": {"infer_ms": infer_ms},
        "server_timing": {"infer_ms": infer_ms, "queue_ms": 1000 * timed.queue_s, "total_ms": total_ms, "batch": timed.batch},
    }
    return reply | ({"scores": np.maximum(decision.scores, np.finfo(np.float32).min)} if asked.get("return_scores") else {})


def _error(code: str, message: str, in_history: bool, echo: dict[str, Any]) -> str:
    return json.dumps({"error": code, "message": message, "in_history": in_history} | echo)


def _sentences(value: Any) -> bool:
    sentence = lambda s: isinstance(s, str) and 0 < len(s.strip()) <= MAX_PROMPT
    return isinstance(value, list) and 0 < len(value) <= MAX_VALUES and all(map(sentence, value))


def _response(status: int, kind: str, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        }
    )
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="qt_jax: any name, the API key as password"'
    return Response(status, HTTPStatus(status).phrase, headers, body)


def _quiet() -> Any:
    """websockets' own log lines are of strangers' broken handshakes."""
    log = logging.getLogger("qt_jax.websockets")
    log.setLevel(logging.CRITICAL)
    return log
