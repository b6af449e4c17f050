"""The settings of a config on the command line, and one line about what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags


def flattened(values: Any, prefix: str = "--config") -> dict[str, Any]:
    """Flattens a config: {"--config.agent.alpha": 1.0, ...}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= flattened(value, name) if hasattr(value, "items") else {name: value}
    return flat


def without_none(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns `argv` without `--config.KEY=None`, and which settings are None at last, for `set_none`."""
    last = dict(arg.partition("=")[::2] for arg in argv if arg.startswith("--config."))
    others = [arg for arg in argv if not (arg.startswith("--config.") and arg.endswith("=None"))]
    return others, [name for name, value in last.items() if value == "None"]


def set_none(config: Any, names: Sequence[str]) -> None:
    """Sets settings to None, which ml_collections parses for none that has a number.

    Args:
        config: of an experiment.
        names: of settings, "--config.data.balance.successes".

    Raises:
        ValueError: for one that is never None.

    """
    if not names:
        return
    from qt_jax.training.config import default_config

    defaults = flattened(default_config(config.agent.name))
    optional = [name for name, value in defaults.items() if value is None]
    for name in names:
        if name not in optional:
            raise ValueError(f"{name} cannot be None; of the settings {', '.join(optional)} can")
        config.update_from_flattened_dict({name.removeprefix("--config."): None})


def problem(error: Exception, argv: Sequence[str]) -> str:
    """Describes in one line what a config file or a value in `argv` raised.

    For a setting that the config does not have, names the nearest that it has.
    """
    given = [argument.partition("=")[0] for argument in argv if argument.startswith("--config.")]
    known = _known(argv) if given else {}
    for setting in given:
        if known and setting not in known and not any(name.startswith(f"{setting}.") for name in known):
            near = _nearest(setting, list(known))
            return f"unknown setting {setting}" + (f"; did you mean {near}?" if near else "")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return " ".join(str(cause).split())


def _known(argv: Sequence[str]) -> dict[str, Any]:
    """Reads the settings of the config that `argv` names; {} where it cannot be read."""
    values = flags.FlagValues()
    alone = ["", *(argument for argument in argv if argument.startswith("--config="))]
    try:
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=alone)
        values(alone)
        return flattened(values.config or {})
    except Exception:  # whatever the file raises: `problem` describes it
        return {}


def _nearest(setting: str, known: list[str]) -> str | None:
    """Finds a setting of the same last name in another section, or else one that is spelt alike."""
    elsewhere = [name for name in known if name.rpartition(".")[2] == setting.rpartition(".")[2]]
    start = len("--config.")
    shown = {name[start:]: name for name in elsewhere or known}
    near = difflib.get_close_matches(setting[start:], shown, n=1, cutoff=0.0 if elsewhere else 0.75)
    return shown[near[0]] if near else None
