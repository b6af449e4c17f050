"""What the server says to a message: actions, values, a ranking, or what became of an episode."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import math
import time
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection

from qt_jax.errors import UserError
from qt_jax.policy.observations import CANDIDATES, options
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.policy.runtime import check
from qt_jax.serving import messages, telemetry, wire
from qt_jax.serving.batching import Batcher, Timed
from qt_jax.serving.dashboard import Dashboard, SessionKey
from qt_jax.serving.policies import Policies
from qt_jax.serving.recording import Label, Recorder

_NOT_REPLACED = ("superseded", "late")
"""Refusals at which a robot acts on a newer observation, or does what it does at a late reply."""


@dataclasses.dataclass(eq=False)
class Peer:
    """A connection, the names of its sessions, and how many requests of each session are under way."""

    connection: ServerConnection
    number: int
    names: set[str | int | None] = dataclasses.field(default_factory=set)
    asking: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Answers:
    """Answers messages, and keeps what metrics and page show of that.

    Args:
        policies: what acts.
        batcher: has them act.
        recorder: keeps labelled episodes; None: nothing is recorded.
        metrics: count what was answered.
        dashboard: shows decisions.
        deadline_ms: of requests that name none; 0: none.

    """

    def __init__(
        self,
        policies: Policies,
        batcher: Batcher,
        recorder: Recorder | None,
        metrics: telemetry.Metrics,
        dashboard: Dashboard,
        deadline_ms: float,
    ):
        self._policies, self._batcher, self._recorder = policies, batcher, recorder
        self._metrics, self._dashboard, self._deadline_ms = metrics, dashboard, deadline_ms
        self._spec, self._keys = policies.spec, policies.keys
        self._embedded: set[str] = set()

    async def reply(
        self, peer: Peer, data: bytes | str, refusal: Refused | None, start: float, echo: dict[str, Any]
    ) -> bytes:
        """Returns the reply to a message, packed.

        Args:
            peer: who asks.
            data: the message.
            refusal: why the server answers nothing now; None: it does.
            start: when the message came, by `time.perf_counter`.
            echo: is given what the reply, or the refusal, repeats of the message.

        Raises:
            Refused: where the message gets no answer.

        """
        if isinstance(data, str):
            raise Refused("malformed", "A text message; expected msgpack as a binary one.")
        message = wire.unpack(data)
        asked = options(message)
        echo |= {key: asked[key] for key in ("session_id", "request_id") if key in asked}
        if refusal is not None:
            raise refusal

        name = asked.get("session_id")
        session = (peer.number, name)
        if len(several := [key for key in ("values", "label", "close", CANDIDATES) if key in message]) > 1:
            raise Refused("bad_observation", f"Keys {several} are there at once; send one after the other.")
        if "values" in message:
            return wire.pack(await self._values(message["values"], session) | echo)
        if messages.closes(message):
            peer.names.discard(name)
            self.close(session)
            return wire.pack({"closed": True} | echo)
        if "label" in message:
            return wire.pack(await self._label(message, session) | echo)

        try:
            request = self._keys.request(message, session)
            recorder = self._recorder
            if recorder is not None and request.intervention is not None:
                # By itself: it is about the step before, whatever becomes of this observation.
                await asyncio.wrap_future(self._batcher.call(lambda: recorder.intervene(request)))
            deadline_ms = asked.get("deadline_ms", self._deadline_ms) or math.inf
            timed = await self._act(peer, name, request, deadline_ms / 1000)
        except Refused as refused:
            refused.fallback = await self._fall_back(session, refused.code)
            raise
        total_ms = 1000 * (time.perf_counter() - start)
        # Noted only once the reply is on its way.
        asyncio.get_running_loop().call_soon(self._note, peer, name, request, timed, total_ms)
        return wire.pack(messages.decided(timed, asked, total_ms) | echo)

    def close(self, session: SessionKey) -> None:
        """Ends an episode."""
        self._batcher.close_session(session)
        self._dashboard.close(session)

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

    async def _act(self, peer: Peer, name: str | int | None, request: Request, deadline_s: float) -> Timed:
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
        self, peer: Peer, name: str | int | None, request: Request, timed: Timed, total_ms: float
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
        self.close(session)
        recorded = await asyncio.to_thread(recorder.write, steps, last, label)
        self._policies.label(steps[-1].policy, label.success)
        self._metrics.labels.labels(steps[-1].policy, str(label.success).lower()).inc()
        return {"recorded": recorded}
