"""`--help` of a command that takes a config: lists each setting with its value and meaning.

The meaning is the comment beside the setting's default in the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from qt_jax import agents
from qt_jax.cli.settings import flattened

_SECTIONS = {
    "": "training.config:default_config",
    "agent.": "agents.q_transformer:get_config",  # it explains what the agents have in common
    "model.": "models.q_transformer:laptop",
    "mesh.": "training.mesh:get_config",
    "distributed.": "training.distributed:get_config",
    "data.augment.": "training.augment:get_config",
    "collect.": "envs.collectors:get_config",
    "evaluate.": "evaluation.settings:get_config",
}
"""The functions that return the defaults of a section, in modules of qt_jax."""
_DEFAULT = re.compile(r"^ +config\.([\w.]+) = .+?  # (.+)$", re.M)


def of(config: Any) -> str:
    """Returns a line for each setting of `config`."""
    functions = [(section, _function(place)) for section, place in _SECTIONS.items() if _has(config, section)]
    functions.append(("agent.", agents.get(config.agent.name).get_config))
    if "env" in config:  # a machine without a simulator has no `env` here, and imports none
        functions.append(("env.", importlib.import_module("qt_jax.envs.suites").of(config).get_config))
    comments: dict[str, str] = {}
    for section, function in functions:
        found = _DEFAULT.findall(inspect.getsource(function))
        comments |= {f"--config.{section}{key}": comment for key, comment in found}

    lines = []
    for key, value in sorted(flattened(config).items()):
        # One comment on a section explains settings that are alike.
        comment = comments.get(key) or comments.get(key.rpartition(".")[0])
        line = f"{key}={value!r}"
        lines.append(f"{line:50}  # {comment}" if comment else line)
    return "\n".join(lines)


def _has(config: Any, section: str) -> bool:
    return not section or section.split(".")[0] in config


def _function(place: str) -> Callable[..., Any]:
    module, function = place.split(":")
    return getattr(importlib.import_module(f"qt_jax.{module}"), function)
