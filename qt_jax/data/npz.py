"""Arrays and what JSON holds, as the bytes of one npz file: no pickle, so that reading it runs no code."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

_REST = "rest"


def to_bytes(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> bytes:
    """Returns the file's bytes; `rest` is written as JSON."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **arrays, **{_REST: text})
    return buffer.getvalue()


def from_bytes(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the rest of what `to_bytes` returned."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(arrays.pop(_REST).tobytes())


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
