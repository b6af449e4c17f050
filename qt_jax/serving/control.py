"""A robot's control loop at a fixed rate: the policy decides while the last actions are executed.

It needs numpy, and with `Client` msgpack and websockets.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.guard import Guard
from qt_jax.policy.requests import Refused
from qt_jax.safety import MOVES, OTHER, SafetyLimits
from qt_jax.serving.chunks import Chunks, commands
from qt_jax.serving.client import EpisodeLost
from qt_jax.serving.rate import Rate
from qt_jax.serving.threads import in_thread
from qt_jax.specs import ActionSpec


class Policy(Protocol):
    """What decides: our `Client`, or a `LoadedPolicy` in this process."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What it says of itself."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Returns {"actions": [h, D]}."""


class Robot(Protocol):
    """What acts. Both are called by the loop's own thread, so they should not wait for long."""

    def observe(self) -> dict[str, Any]:
        """Returns the policy's observation, without "prompt" and "reset".

        With "age_ms", how old it is, where the policy's limits have `stale_ms`.
        """

    def move(self, action: np.ndarray) -> None:
        """Sends a command, float32 [D]."""


@dataclasses.dataclass(frozen=True)
class _About:
    """What the loop must know of a policy."""

    names: tuple[str, ...]
    dt: float
    execute: int
    window: int
    prompt: str
    state: tuple[str, ...]
    """Keys that are joined to the state."""
    state_dim: int
    limits: SafetyLimits

    @classmethod
    def read(cls, metadata: Mapping[str, Any], limits: str | Path) -> _About:
        """Reads a policy's metadata; a file of limits takes the place of the policy's own."""
        try:
            keys = metadata["observation"]
            own = metadata["limits"]
            state = next((key for key, form in keys.items() if form["dtype"] == "float"), "")
            known = {
                "names": tuple(metadata["action"]["names"]),
                "dt": float(metadata["control_period_s"]),
                "execute": int(metadata["execute"]),
                "window": int(metadata["window"]),
                "prompt": metadata["instruction_embedding"]["instead_of"],
                "state": tuple(filter(None, state.split("+"))),
                "state_dim": keys[state]["shape"][0] if state else 0,
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The policy's metadata lacks {error}, which the loop needs; serve it with this version.",
                topic="other-version",
            ) from error
        if limits and own is not None:
            raise UserError(f"limits={limits} is given, and the policy has limits of its own; leave it out.")
        if not limits and own is None:
            raise UserError(
                "The policy has no safety limits, so nothing says what is done at a late reply; export with "
                "--limits=FILE, or give the loop limits=FILE."
            )
        safety = SafetyLimits.read(limits) if limits else SafetyLimits.from_json(own)
        safety.check(ActionSpec(**metadata["action"]), known["state_dim"])
        return cls(**known, limits=safety)


class ControlLoop:
    """Runs a robot by a policy at a fixed rate. Not thread-safe.

    An observation is sent each `every` control steps, and the loop goes on while the policy decides. Each
    command is inside the safety limits. Where no action came in time, the limits' `on_late` is done.

    Args:
        policy: a `Client`, or a `LoadedPolicy`.
        robot: what acts.
        hz: commands a second: the policy's rate or a multiple of it, for which actions are interpolated;
            0: the policy's.
        ensemble: averages overlapping chunks: see `Chunks`. It is for policies that see one frame.
        every: control steps from one observation to the next, with `ensemble` (then 1 by default). Without
            it they are as many as a decision has actions.
        limits: a JSON file of limits, of a policy that has none.
        begins: how often an episode that is lost with its connection is begun anew where the robot stands;
            after that `EpisodeLost` is raised.

    Raises:
        UserError: if the policy's metadata says too little, or the arguments are not of this policy.

    """

    def __init__(
        self,
        policy: Policy,
        robot: Robot,
        *,
        hz: float = 0.0,
        ensemble: float | None = None,
        every: int = 0,
        limits: str | Path = "",
        begins: int = 0,
    ):
        self._about = about = _About.read(policy.metadata, limits)
        self._policy, self._robot, self._begins = policy, robot, begins
        self._hz = hz or 1 / about.dt
        self._count = _ticks(self._hz, about)
        self._kinds = [about.limits.dims[n].kind if n in about.limits.dims else "" for n in about.names]
        self._every = self._count * _every(every, ensemble, about)
        if not about.limits.on_late:
            raise UserError("The limits have no on_late, which says what is done at a late reply; give it.")
        unknown = [name for name, kind in zip(about.names, self._kinds) if not kind]
        if unknown and (self._count > 1 or ensemble is not None):
            raise UserError(
                f"The limits do not say what the dims {unknown} are, which ensemble and several commands a "
                f"control step need (hz={self._hz:g}: {self._count}); give them kind, {OTHER!r} where they "
                "are no positions."
            )
        self._guard = Guard(about.limits, about.names, about.dt, self._count)
        self._chunks = Chunks(self._count, ensemble, [kind in MOVES for kind in self._kinds])
        self._asked: Future | None = None
        self._counts: collections.Counter[str] = collections.Counter()
        self._before: collections.Counter[str] = collections.Counter()
        self._limited: collections.Counter[str] = collections.Counter()
        self._untold: collections.Counter[str] = collections.Counter()
        self._rate = Rate(self._hz)

    def run(self, instruction: str, steps: int | None = None) -> dict[str, Any]:
        """Runs one episode and returns `report()`.

        At its end, and at an error, the robot gets the stop action. The end waits for the reply to the last
        observation, which is counted and not done.

        Args:
            instruction: the sentence.
            steps: control steps, also those before the first reply, in which the robot stands; None: until an
                exception, such as Ctrl-C.

        Raises:
            EpisodeLost: if the connection broke more often than `begins` allows.
            Refused: if the first observation is refused.
            UserError: if the server does not answer any more, or answers what is no action; or if `steps` is
                not a whole number above 0.

        """
        if steps is not None and (steps < 1 or steps != int(steps)):
            raise UserError(f"steps is {steps}; give a whole number above 0, or None for no end.")
        self._begin(instruction)
        try:
            for tick in itertools.count():
                if steps is not None and tick >= steps * self._count:
                    break
                self._take(tick)
                if (command := self._command(tick)) is not None:
                    self._robot.move(command)
                if self._asked is None and tick >= self._due and tick % self._grid == 0:
                    self._ask(tick)
                self._rate.wait()
        finally:
            if self._guard.last is not None:
                self._robot.move(self._guard.stop()[0])
            if self._asked is not None:  # the policy is free again when run() has ended
                self._asked.exception()
        self._take(tick)
        return self.report()

    def report(self) -> dict[str, Any]:
        """Returns what happened since the loop was made.

        "rate" is `Rate.report()` of the last run. "replies", "refused" and "lost" are counts. "limited"
        counts what the limits altered of commands here, by limit, "decisions_limited" of decisions before.
        """
        counts = {name: self._counts[name] for name in ("replies", "refused", "lost")}
        limited = {"limited": dict(self._limited), "decisions_limited": dict(self._before)}
        return {"rate": self._rate.report()} | counts | limited

    def _begin(self, instruction: str) -> None:
        self._instruction, self._reset = instruction, True
        self._guard.begin()
        self._chunks.clear()
        self._rows: collections.deque[np.ndarray] = collections.deque()
        self._seen = self._due = self._idle = self._lost = 0
        self._refused = False
        self._asked = None
        self._rate = Rate(self._hz)

    @property
    def _grid(self) -> int:
        """Ticks at which an observation may be taken: with ensembling those of control steps."""
        return self._count if self._chunks.ensembles else 1

    def _ask(self, tick: int) -> None:
        """Observes, and has the policy decide in another thread."""
        seen = self._robot.observe()
        state = np.concatenate([np.zeros(0), *(np.ravel(seen.get(key, ())) for key in self._about.state)])
        if len(state) == self._about.state_dim and np.isfinite(state).all():  # else the policy refuses it
            self._guard.see(state)
        message = seen | {self._about.prompt: self._instruction, "reset": self._reset}
        if self._chunks.ensembles and not self._reset:
            message["taken"] = min((tick - self._seen) // self._count, self._about.execute)
        self._told = self._untold.copy()
        if self._told:
            message["limited"] = dict(self._told)
        self._seen, self._due = tick, tick + self._every
        self._asked = in_thread(self._policy.infer, message, name="policy")

    def _take(self, tick: int) -> None:
        """Takes the reply, if it has come."""
        if self._asked is None or not self._asked.done():
            return
        asked, self._asked = self._asked, None
        try:
            actions = _actions(asked.result(), self._about)
        except EpisodeLost:
            self._counts["lost"] += 1
            self._lost += 1
            if self._lost > self._begins:
                raise
            self._reset, self._due = True, tick
            return
        except Refused:
            self._counts["refused"] += 1
            if self._guard.last is None:
                raise
            self._refused = True
            self._due = max(self._due, tick + self._count)
            return
        self._counts["replies"] += 1
        self._before.update(one["limit"] for one in asked.result().get("limited", ()))
        self._untold -= self._told
        self._reset = self._refused = False
        self._chunks.add(self._seen, tick, actions)

    def _command(self, tick: int) -> np.ndarray | None:
        """Returns what is sent at this tick; None: nothing."""
        if not self._rows and (found := self._chunks.at(tick)) is not None:
            self._rows.extend(commands(self._guard.before, found[0], self._kinds, self._count, found[1]))
        if self._rows:
            self._idle = 0
            command, altered = self._guard.limit(self._rows.popleft())
        elif self._guard.last is None:
            return None  # the robot has not moved yet, and waits for the first reply
        else:
            self._idle += 1
            limits = self._about.limits
            refused = self._refused and limits.on_refused
            if not refused and self._idle / self._hz <= (limits.late_ms or 0.0) / 1000:
                return None
            command, altered = self._guard.fall_back("refused" if refused else "late")
        for counts in (self._limited, self._untold):
            counts.update(one.limit for one in altered)
        return command


def _ticks(hz: float, about: _About) -> int:
    """Returns how many commands a control step has."""
    ticks = hz * about.dt
    if not (0 < hz < math.inf) or round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6 * ticks:
        raise UserError(
            f"hz is {hz:g}; give a multiple of the policy's rate, {1 / about.dt:g} Hz (a control step is "
            f"{about.dt:g} s)."
        )
    return round(ticks)


def _every(every: int, ensemble: float | None, about: _About) -> int:
    """Returns how many control steps lie between two observations."""
    if ensemble is None:
        if every not in (0, about.execute):
            raise UserError(
                f"every is {every}; without ensemble an observation is taken each {about.execute} steps."
            )
        return about.execute
    if not 0 <= ensemble < math.inf:
        raise UserError(f"ensemble is {ensemble}; give 0 or more, such as 0.01.")
    if not 0 <= every <= about.execute:
        raise UserError(f"every is {every}; a decision has {about.execute} actions, give 1 to as many.")
    if about.window > 1 and (every or 1) != about.execute:
        raise UserError(
            f"ensemble asks more often than each {about.execute} control steps, and the policy sees "
            f"{about.window} frames that are so far apart; it is for policies that see one frame."
        )
    return every or 1


def _actions(reply: dict[str, Any], about: _About) -> np.ndarray:
    found = np.atleast_2d(np.asarray(reply.get("actions")))
    good = found.dtype.kind == "f" and found.ndim == 2 and found.shape[1] == len(about.names)
    if not good or not np.isfinite(found).all():
        raise UserError(
            f"The policy answers 'actions' {found.dtype}{list(found.shape)}; expected finite numbers "
            f"[h, {len(about.names)}]."
        )
    return found.astype(np.float32)
