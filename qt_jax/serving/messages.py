"""What is in requests beside an observation, and what replies are made of."""

from __future__ import annotations

import json
import math
from typing import Any

from qt_jax.policy.candidates import MAX_HORIZON
from qt_jax.policy.observations import MAX_PROMPT, plain, reply
from qt_jax.policy.requests import Refused
from qt_jax.serving.batching import Timed
from qt_jax.specs import PolicySpec

MAX_VALUES = 1000
"""Instructions in one request for values."""


def largest(spec: PolicySpec) -> int:
    """Returns how many bytes a request may have: those of an observation and candidates in float64.

    So images that are floats by mistake are read, and refused by name.
    """
    own, seen = spec.interface, spec.interface.observation
    numbers = len(seen.cameras) * math.prod(seen.image_size) * 3 + seen.state_dim + own.instruction_dim
    return 8 * (numbers + spec.candidates * MAX_HORIZON * own.action.dims) + 2**16


def decided(timed: Timed, asked: dict[str, Any], total_ms: float) -> dict[str, Any]:
    """Returns the reply to an observation."""
    infer_ms, queue_ms = 1000 * timed.infer_s, 1000 * timed.queue_s
    timing = {"infer_ms": infer_ms, "queue_ms": queue_ms, "total_ms": total_ms, "batch": timed.batch}
    return reply(timed.answer, asked.get("return_scores", False)) | {
        "policy_timing": {"infer_ms": infer_ms},
        "server_timing": timing,
    }


def error(refused: Refused, echo: dict[str, Any]) -> str:
    """Returns the text of an error; `echo` is what it repeats of the request."""
    said = {"error": refused.code, "message": str(refused), "in_history": refused.in_history}
    return json.dumps(
        said | ({} if refused.fallback is None else {"fallback": refused.fallback.tolist()}) | echo
    )


def closes(message: dict[str, Any]) -> bool:
    """Takes the key 'close' out of a request; returns whether it asks to forget the session.

    Raises:
        Refused: `bad_observation`, for another value than true or false.

    """
    close = plain(message.pop("close", False))
    if not isinstance(close, bool):
        raise Refused("bad_observation", f"Key 'close' is {str(close)[:50]!r}, expected true.")
    return close


def sentences(value: Any) -> bool:
    """Returns whether a value is a list of 1 to `MAX_VALUES` sentences."""

    def sentence(text: Any) -> bool:
        return isinstance(text, str) and 0 < len(text.strip()) <= MAX_PROMPT

    return isinstance(value, list) and 0 < len(value) <= MAX_VALUES and all(map(sentence, value))
