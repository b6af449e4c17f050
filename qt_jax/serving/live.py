"""What the page shows of the last control steps."""

from __future__ import annotations

import collections
import time
from collections.abc import Hashable
from typing import Any

import numpy as np

from qt_jax.serving.sessions import Decision, Request
from qt_jax.specs import PolicySpec

SESSIONS, HISTORY = 32, 200


class Live:
    """The `SESSIONS` that acted last, `HISTORY` steps of each."""

    def __init__(self, spec: PolicySpec):
        self._spec = spec
        self._shown: collections.OrderedDict[Hashable, dict[str, Any]] = collections.OrderedDict()

    def record(self, request: Request, decision: Decision, total_ms: float) -> None:
        empty = {"scores": collections.deque(maxlen=HISTORY), "ms": collections.deque(maxlen=HISTORY)}
        shown = self._shown.setdefault(request.session, empty)
        if decision.step == 0:
            shown["scores"].clear()
        shown["scores"].append(float(decision.chosen[-1]))
        shown["ms"].append(total_ms)
        shown |= {"request": request, "decision": decision, "at": time.time()}
        self._shown.move_to_end(request.session)
        while len(self._shown) > SESSIONS:
            self._shown.popitem(last=False)

    def close(self, session: Hashable) -> None:
        self._shown.pop(session, None)

    def summary(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """As JSON; frames come by `frame`."""
        return {"metadata": metadata, "time": time.time(), "sessions": [self._row(key, shown) for key, shown in self._shown.items()]}

    def frame(self, name: str) -> bytes | None:
        """RGB bytes of "SESSION/CAMERA", the session by its name in `summary`."""
        session, _, camera = name.rpartition("/")
        for key, shown in self._shown.items():
            if _name(key) == session:
                image = shown["request"].images.get(camera)
                return None if image is None else image.tobytes()
        return None

    def _row(self, key: Hashable, shown: dict[str, Any]) -> dict[str, Any]:
        decision, instruction = shown["decision"], shown["request"].instruction
        finite = [[None if not np.isfinite(x) else round(float(x), 5) for x in row] for row in decision.scores]
        return {
            "name": _name(key),
            "instruction": instruction if isinstance(instruction, str) else "(an embedding)",
            "at": shown["at"],
            "step": decision.step,
            "action": decision.action.tolist(),
            "tokens": decision.tokens.tolist(),
            "scores": finite,
            "score_history": list(shown["scores"]),
            "ms_history": list(shown["ms"]),
        }


def _name(session: Hashable) -> str:
    connection, name = session
    return f"{connection}" if name is None else f"{connection}.{name}"
