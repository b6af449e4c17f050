"""Settings that are arguments of the compiled programs.

Runs that differ in these numbers alone, such as those of a sweep, share one compilation.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

TRACED = (
    "seed", "discount", "train.steps", "optimizer.learning_rate", "optimizer.warmup_steps",
    "optimizer.final_learning_rate", "optimizer.encoder_learning_rate", "optimizer.weight_decay",
    "optimizer.clip_norm", "agent.alpha", "agent.temperature", "agent.expectile", "agent.target_rate",
    "agent.max_weight", "agent.policy_weight",
)  # fmt: skip
"""Numbers on which no shape and no Python branch depends."""

_WHOLE = {"seed": jnp.uint32, "train.steps": jnp.int32, "optimizer.warmup_steps": jnp.int32}


@dataclasses.dataclass(frozen=True)
class With:
    """A view of a config with other values, {dotted name: value}."""

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
    """Returns the settings of `TRACED` that the config has, as scalars {dotted name: []}."""
    found = {}
    for name in TRACED:
        section, _, key = name.rpartition(".")
        holder = getattr(config, section) if section else config
        if hasattr(holder, key):
            found[name] = jnp.asarray(getattr(holder, key), _WHOLE.get(name, jnp.float32))
    return found
