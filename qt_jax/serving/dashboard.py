"""What the page shows: the last control steps of each session."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import numpy as np

from qt_jax.policy.requests import Decision, Request

SESSIONS, HISTORY = 32, 200

SessionKey = tuple[int, str | int | None]
"""(number of the connection, `session_id` that the client gave, if any)."""


def _history() -> collections.deque[float]:
    return collections.deque(maxlen=HISTORY)


@dataclasses.dataclass
class _Session:
    """The last step of a session, at Unix time `at`, and the history of scores and of milliseconds."""

    request: Request
    decision: Decision
    at: float
    scores: collections.deque[float] = dataclasses.field(default_factory=_history)
    ms: collections.deque[float] = dataclasses.field(default_factory=_history)
    limited: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """How often each safety limit altered an action, since the session began."""
    limited_commands: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """And a command of the robot's own loop, as it says."""


class Dashboard:
    """Keeps the last `HISTORY` steps of the `SESSIONS` sessions that acted last."""

    def __init__(self) -> None:
        self._sessions: collections.OrderedDict[SessionKey, _Session] = collections.OrderedDict()

    def record(self, key: SessionKey, request: Request, decision: Decision, total_ms: float) -> None:
        """Adds a control step of a session; step 0 begins its history of scores anew.

        Args:
            key: the session.
            request: what the robot saw.
            decision: what the policy did.
            total_ms: milliseconds from the request's arrival to its reply.

        """
        session, now = self._sessions.get(key), time.time()
        if session is None:
            session = self._sessions[key] = _Session(request, decision, now)
        if decision.step == 0:
            session.scores.clear()
        session.scores.append(decision.score)
        session.ms.append(total_ms)
        session.limited.update(one.limit for one in decision.limited)
        session.limited_commands.update(request.limited)
        session.request, session.decision, session.at = request, decision, now

        self._sessions.move_to_end(key)
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)

    def count(self, key: SessionKey, limit: str) -> None:
        """Counts what a safety limit altered beside the session's decisions."""
        if key in self._sessions:
            self._sessions[key].limited[limit] += 1

    def close(self, key: SessionKey) -> None:
        """Forgets a session, if it is here."""
        self._sessions.pop(key, None)

    def state(self, describe: Callable[[str], dict[str, Any]], wanted: str = "") -> dict[str, Any]:
        """Returns as JSON which sessions there are, and all of one of them but its frames (see `frame`).

        Args:
            describe: returns the metadata of a policy by its name; "": of the first.
            wanted: percent-encoded name of the session to show; of an unknown one, the one that acted last.

        """
        sessions = {_name(key): session for key, session in self._sessions.items()}
        name = unquote(wanted) if unquote(wanted) in sessions else next(reversed(sessions), None)
        shown = None if name is None else _summary(name, sessions[name]) | _details(sessions[name])
        return {
            "metadata": describe("" if name is None else sessions[name].decision.policy),
            "time": time.time(),
            "sessions": [_summary(key, session) for key, session in sessions.items()],
            "shown": shown,
        }

    def frame(self, name: str) -> bytes | None:
        """Returns the RGB bytes of a camera's last frame; None: there is no such session or camera.

        Args:
            name: "SESSION/CAMERA", both percent-encoded; the session has its name in `state`.

        """
        wanted, camera = map(unquote, name.partition("/")[::2])
        for key, session in self._sessions.items():
            if _name(key) == wanted:
                image = session.request.images.get(camera)
                return None if image is None else image.tobytes()
        return None


def _summary(name: str, session: _Session) -> dict[str, Any]:
    """Returns who the session is; the instruction is None where it was given as an embedding."""
    instruction = session.request.instruction
    sentence = instruction if isinstance(instruction, str) else None
    return {"name": name, "instruction": sentence, "at": session.at, "step": session.decision.step}


def _details(session: _Session) -> dict[str, Any]:
    decision = session.decision
    return {
        "cameras": {camera: image.shape[:2] for camera, image in session.request.images.items()},
        "action": decision.actions.ravel().tolist(),
        "tokens": decision.tokens.tolist(),
        "policy": decision.policy,
        "scores": _rounded(decision.scores),
        "behaviour": None if decision.behaviour is None else _rounded(decision.behaviour),
        "score_history": [_finite(x) for x in session.scores],
        "ms_history": [round(x, 3) for x in session.ms],
        "limited": [one.to_json() for one in decision.limited],
        "limited_counts": dict(session.limited),
        "limited_commands": dict(session.limited_commands),
    }


def _rounded(of_bins: np.ndarray) -> list[list[float | None]]:
    return [[_finite(x) for x in row] for row in of_bins.tolist()]


def _finite(value: float) -> float | None:
    """Returns the number rounded, or None for an infinite one, which JSON cannot hold."""
    return round(value, 5) if math.isfinite(value) else None


def _name(key: SessionKey) -> str:
    connection, name = key
    return f"{connection}" if name is None else f"{connection}.{name}"
