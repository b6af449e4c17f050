"""`config.train.init_from`: what a run must have in common with the one whose parameters it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec
from qt_jax.training.assets import Assets, frozen_config
from qt_jax.training.checkpoints import load_assets

VALUES = ("value_range", "discount", "dt_ref", "data.step_penalty", "agent.value_loss")
"""Settings that say what a value means. What else an agent learns by, data and schedule may be others."""
RETURNS = ("data.step_penalty",)
"""And that say what the return of an episode means."""
CHUNKS = ("chunk", "execute")
"""Of the interface, as the config has resolved them."""
ACTION = tuple(field.name for field in dataclasses.fields(ActionSpec))


def check(init_from: str, now: Assets) -> None:
    """Raises a UserError that names all differences of that run by which its outputs mean something else."""
    before = load_assets(init_from)
    differing = {name: pair for name, pair in _pairs(before, now).items() if pair[0] != pair[1]}
    if differing:
        listed = "; ".join(f"{name} {then}, this run has {own}" for name, (then, own) in differing.items())
        raise UserError(
            f"config.train.init_from={init_from} was trained with {listed}: its outputs mean something else. "
            "Give the same here, or start from another run."
        )


def _pairs(before: Assets, now: Assets) -> dict[str, tuple[Any, Any]]:
    """Returns what is compared: {what: (the earlier run's, this one's)}."""
    names = _setting(before, "agent.name"), _setting(now, "agent.name")
    pairs: dict[str, tuple[Any, Any]] = {"config.agent.name": names}
    if names[0] == names[1]:
        agent = agents.get(names[0])
        keys = VALUES if agents.has_values(names[0]) else RETURNS if agent.RETURN_CONDITIONED else ()
        pairs |= {f"config.{key}": (_setting(before, key), _setting(now, key)) for key in keys}
        configs = frozen_config(before.config), frozen_config(now.config)
        pairs["outputs of a bin"] = agent.outputs(configs[0]), agent.outputs(configs[1])
    pairs["text encoder"] = before.text_encoder, now.text_encoder
    old, new = before.interface, now.interface
    pairs |= _fields("observation", old.observation, new.observation, ("cameras", "state_dim"))
    pairs |= {f"config.model.{name}": (getattr(old, name), getattr(new, name)) for name in CHUNKS}
    shared = sorted(set(before.datasets) & set(now.datasets))
    # A robot's own bounds say what its bins are; where no robot is the same, those of the network do.
    pairs |= _fields("action", old.action, new.action, ("names", "bins") if shared else ACTION)
    for name in shared:
        actions = before.datasets[name].interface.action, now.datasets[name].interface.action
        pairs |= _fields(f"action of {name}:", *actions, ACTION)
    return pairs


def _fields(what: str, before: Any, now: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    return {f"{what} {name}": (getattr(before, name), getattr(now, name)) for name in names}


def _setting(assets: Assets, key: str) -> Any:
    value: Any = assets.config
    for part in key.split("."):
        value = value.get(part)
    return value
