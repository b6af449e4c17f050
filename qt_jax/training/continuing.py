"""Which settings a run may have otherwise than the checkpoint that it continues from."""

from __future__ import annotations

from typing import Any

from qt_jax.errors import UserError

SAME_NUMBERS = ("model.remat", "model.encoder_remat", "model.scan_layers")
"""That change the memory and time of a step, and no number beyond rounding."""

FREE = (
    "workdir", "train", "evaluate", "collect", "mesh", "distributed", "data.path", "data.root", "data.tables",
    "data.cache", "data.read_threads", "data.workers", "data.memory_mib", "data.max_skipped", *SAME_NUMBERS,
)  # fmt: skip
"""Sections and settings that may differ between a checkpoint's config and the one that resumes it: the data
is known by its fingerprint."""

_SILENT = ("workdir", "evaluate", "collect", "distributed")
_ABSENT = "no such setting"


def differing(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{config.KEY: (before, now)} of two plain configs, in the order of their names."""
    before, now = _flatten(saved), _flatten(current)
    pairs = {key: (before.get(key, _ABSENT), now.get(key, _ABSENT)) for key in sorted(set(before) | set(now))}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flatten(values: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat.update(
            _flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
        )
    return flat


def refuse_other_config(
    saved: dict[str, Any],
    current: dict[str, Any],
    path: Any,
    free: tuple[str, ...] = FREE,
    bound: tuple[str, ...] = (),
) -> None:
    """Raises a UserError naming the first setting that differs, outside the `free` sections and settings.

    The learning rate may be lowered (after a loss that was not finite). What is `bound` may be raised,
    whatever is free.
    """
    for key, (before, now) in differing(saved, current).items():
        section, setting = key.split(".")[1], key.removeprefix("config.")
        if key in bound:
            allowed = now > before
        else:
            allowed = bool({section, setting} & set(free)) or (
                setting == "optimizer.learning_rate" and now < before
            )
        if not allowed:
            raise UserError(
                f"{path} was made with {key}={before!r}, this run has {now!r}; give the same value, another "
                "config.workdir, or start from its parameters with config.train.init_from."
            )


def refuse_to_continue(
    saved: dict[str, Any], current: dict[str, Any], step: int, path: Any
) -> dict[str, tuple[Any, Any]]:
    """What the run has otherwise than its checkpoint of `step` at `path`: {config.KEY: (before, now)}, but
    for what no step depends on.

    Raises:
        UserError: if a setting may not differ; a run that has ended takes more steps, and a lower learning
            rate only with them.

    """
    refuse_other_config(saved, current, path, bound=("config.train.steps",))
    changes, rate = differing(saved, current), "config.optimizer.learning_rate"
    if rate in changes and step >= current["train"]["steps"]:
        before, now = changes[rate]
        raise UserError(
            f"{path} is the end of a run with {rate}={before!r}, this run has {now!r} and no step is left; "
            "give the same value, raise "
            "config.train.steps, or take another config.workdir."
        )
    return {
        key: pair
        for key, pair in changes.items()
        if not {key.split(".")[1], key.removeprefix("config.")} & set(_SILENT)
    }
