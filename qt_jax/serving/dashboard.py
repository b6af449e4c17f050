"""What the page shows of the last control steps."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Hashable
from typing import Any
from urllib.parse import unquote

from qt_jax.policy.sessions import Decision, Request

SESSIONS, HISTORY = 32, 200


class Live:
    """The `SESSIONS` that acted last, `HISTORY` steps of each."""

    def __init__(self) -> None:
        self._shown: collections.OrderedDict[Hashable, dict[str, Any]] = collections.OrderedDict()

    def record(self, request: Request, decision: Decision, total_ms: float) -> None:
        empty = {"scores": collections.deque(maxlen=HISTORY), "ms": collections.deque(maxlen=HISTORY)}
        shown = self._shown.setdefault(request.session, empty)
        if decision.step == 0:
            shown["scores"].clear()
        shown["scores"].append(decision.score)
        shown["ms"].append(total_ms)
        shown |= {"request": request, "decision": decision, "at": time.time()}
        self._shown.move_to_end(request.session)
        while len(self._shown) > SESSIONS:
            self._shown.popitem(last=False)

    def close(self, session: Hashable) -> None:
        self._shown.pop(session, None)

    def summary(self, metadata: dict[str, Any], wanted: str = "") -> dict[str, Any]:
        """As JSON: who is there, and all of one session: the wanted one (its name percent-encoded), else the
        one that acted last. Frames come by `frame`.
        """
        rows = {_name(key): shown for key, shown in self._shown.items()}
        name = unquote(wanted) if unquote(wanted) in rows else next(reversed(rows), None)
        told = {
            "metadata": metadata,
            "time": time.time(),
            "sessions": [_who(key, shown) for key, shown in rows.items()],
        }
        return told | {"shown": None if name is None else _who(name, rows[name]) | self._all(rows[name])}

    def frame(self, name: str) -> bytes | None:
        """RGB bytes of "SESSION/CAMERA", the session by its name in `summary`; both percent-encoded."""
        session, camera = map(unquote, name.partition("/")[::2])
        for key, shown in self._shown.items():
            if _name(key) == session:
                image = shown["request"].images.get(camera)
                return None if image is None else image.tobytes()
        return None

    def _all(self, shown: dict[str, Any]) -> dict[str, Any]:
        decision = shown["decision"]
        return {
            "cameras": {camera: image.shape[:2] for camera, image in shown["request"].images.items()},
            "action": decision.action.tolist(),
            "tokens": decision.tokens.tolist(),
            "scores": [[_finite(x) for x in row] for row in decision.scores.tolist()],
            "score_history": [_finite(x) for x in shown["scores"]],
            "ms_history": [round(x, 3) for x in shown["ms"]],
        }


def _who(name: str, shown: dict[str, Any]) -> dict[str, Any]:
    instruction = shown["request"].instruction
    told = instruction if isinstance(instruction, str) else None
    return {"name": name, "instruction": told, "at": shown["at"], "step": shown["decision"].step}


def _finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return round(value, 5) if math.isfinite(value) else None


def _name(session: Hashable) -> str:
    connection, name = session
    return f"{connection}" if name is None else f"{connection}.{name}"
