"""Bins <-> actions, from an ActionSpec. Works on numpy and on jax arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from qt_jax.specs import ActionSpec


def tokenize(spec: ActionSpec, action: np.ndarray) -> np.ndarray:
    """Returns the bins int32 [..., D] of actions [..., D]; values outside the bounds go to the edge bins."""
    low, high, bins = (np.asarray(x) for x in (spec.low, spec.high, spec.bins))
    index = np.floor((np.asarray(action, np.float64) - low) / (high - low) * bins)
    return np.clip(index, 0, bins - 1).astype(np.int32)


def beyond(spec: ActionSpec, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of the actions [..., D] lie below and which above their bounds, bool [..., D] each.

    They are compared in float32, as actions are stored: the extreme that gave a float64 bound is then not
    beyond it.
    """
    low, high, action = (np.asarray(values, np.float32) for values in (spec.low, spec.high, action))
    return action < low, action > high


def detokenize(spec: ActionSpec, tokens: Any) -> Any:
    """Returns the centres of bins [..., D], float32 [..., D], which lie inside the spec's bounds."""
    # numpy's own arrays have it from 2.0 on; onnxruntime 1.17 wants an older one.
    xp = np if isinstance(tokens, np.ndarray) else tokens.__array_namespace__()
    low, high, bins = (xp.asarray(x, xp.float32) for x in (spec.low, spec.high, spec.bins))
    return low + (tokens.astype(xp.float32) + 0.5) * (high - low) / bins
