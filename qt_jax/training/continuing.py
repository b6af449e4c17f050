"""Which settings may differ between a run and the checkpoint that it continues from."""

from __future__ import annotations

import json
from typing import Any

from qt_jax.errors import UserError

SAME_NUMBERS = ("model.remat", "model.encoder_remat", "model.scan_layers")
"""Settings that change the memory and time of a step, and no number beyond rounding."""

FREE = (
    "workdir", "train", "evaluate", "collect", "improve", "mesh", "distributed", "data.path", "data.root",
    "data.tables", "data.cache", "data.read_threads", "data.workers", "data.memory_mib", "data.max_skipped",
    *SAME_NUMBERS,
)  # fmt: skip
"""Sections and settings that may differ. (The data is known by its fingerprint.)"""

_SILENT = ("workdir", "evaluate", "collect", "improve", "distributed")
"""Of these, what no training step depends on."""
_ABSENT = "no such setting"


def differing(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares two plain configs: {config.KEY: (before, now)}, sorted by name."""
    before, now = _flatten(saved), _flatten(current)
    pairs = {key: (before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in sorted(set(before) | set(now))}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def with_defaults(saved: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns a plain config with the defaults of those settings that it lacks, in the sections it has."""
    filled = {
        key: with_defaults(value, defaults[key]) if isinstance(value, dict) and key in defaults else value
        for key, value in saved.items()
    }
    return defaults | filled


def _of_this_version(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's plain config with the settings that came later."""
    # Reading data needs packages that a checkpoint's other readers, such as `onnx`, do without.
    from qt_jax.training.config import default_config

    return with_defaults(saved, json.loads(default_config(saved["agent"]["name"]).to_json()))


def _flatten(values: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= _flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat


def refuse_other_config(
    saved: dict[str, Any],
    current: dict[str, Any],
    path: Any,
    free: tuple[str, ...] = FREE,
    bound: tuple[str, ...] = (),
) -> None:
    """Refuses a run whose settings differ from its checkpoint's.

    Settings that came later than the checkpoint had their defaults in it. The learning rate may be lowered,
    as after a loss that was not finite.

    Args:
        saved: the plain config of the checkpoint.
        current: the plain config of this run.
        path: of the checkpoint, for the message.
        free: sections and settings that may differ.
        bound: settings (with "config.") that may only be raised, even in a free section.

    Raises:
        UserError: naming the first setting that may not differ.

    """
    for key, (before, now) in differing(_of_this_version(saved), current).items():
        section, setting = key.split(".")[1], key.removeprefix("config.")
        if key in bound:
            allowed = now > before
        elif setting == "optimizer.learning_rate" and now < before:
            allowed = True
        else:
            allowed = not {section, setting}.isdisjoint(free)
        if not allowed:
            raise UserError(
                f"{path} was made with {key}={before!r}, this run has {now!r}; give the same value, another "
                "config.workdir, or start from its parameters with config.train.init_from."
            )


def refuse_to_continue(
    saved: dict[str, Any], current: dict[str, Any], step: int, path: Any
) -> dict[str, tuple[Any, Any]]:
    """Checks that a run may continue from its checkpoint of `step` at `path`.

    Returns:
        The settings that differ, {config.KEY: (before, now)}, without those that no step depends on.

    Raises:
        UserError: if a setting may not differ, or the run has ended and only its learning rate is lowered.

    """
    refuse_other_config(saved, current, path, bound=("config.train.steps",))
    changes, rate = differing(_of_this_version(saved), current), "config.optimizer.learning_rate"
    if rate in changes and step >= current["train"]["steps"]:
        before, now = changes[rate]
        raise UserError(
            f"{path} is the end of a run with {rate}={before!r}, this run has {now!r} and no step is left; "
            "give the same value, raise config.train.steps, or take another config.workdir."
        )
    return {
        key: pair
        for key, pair in changes.items()
        if not {key.split(".")[1], key.removeprefix("config.")} & set(_SILENT)
    }
