"""Settings that are arguments of the compiled programs: runs that differ in these numbers alone, as those of
a sweep, compile once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

TRACED = (
    "seed", "discount", "train.steps", "optimizer.learning_rate", "optimizer.warmup_steps",
    "optimizer.final_learning_rate", "optimizer.weight_decay", "optimizer.clip_norm", "agent.alpha",
    "agent.temperature", "agent.expectile", "agent.target_rate", "agent.max_weight",
)  # fmt: skip
"""Numbers that no shape and no choice depends on."""

_WHOLE = {"seed": jnp.uint32, "train.steps": jnp.int32, "optimizer.warmup_steps": jnp.int32}


@dataclasses.dataclass(frozen=True)
class With:
    """A config in which these values, {dotted name: value}, are others."""

    _config: Any
    _values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        inner = {
            key.removeprefix(f"{name}."): value
            for key, value in self._values.items()
            if key.startswith(f"{name}.")
        }
        value = getattr(self._config, name)
        return With(value, inner) if inner else value


def values(config: Any) -> dict[str, jax.Array]:
    """Of `TRACED`, those that the config has: {dotted name: []}."""
    found = {}
    for name in TRACED:
        section, _, key = name.rpartition(".")
        holder = getattr(config, section) if section else config
        if hasattr(holder, key):
            found[name] = jnp.asarray(getattr(holder, key), _WHOLE.get(name, jnp.float32))
    return found
