"""What `--help` of a door says of a config's settings: each with its value and, after a #, the comment beside
its default in the code.
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
    "agent.": "agents.q_transformer:get_config",  # what the agents have in common is explained there
    "model.": "models.q_transformer:laptop",
    "mesh.": "training.mesh:get_config",
    "distributed.": "training.distributed:get_config",
    "data.augment.": "training.augment:get_config",
    "collect.": "envs.collectors:get_config",
    "evaluate.": "evaluation.settings:get_config",
}
"""Where the defaults of a section stand, below qt_jax."""
_DEFAULT = re.compile(r"^ +config\.([\w.]+) = .+?  # (.+)$", re.M)


def of(config: Any) -> str:
    """A line for each setting of `config`."""
    functions = [(section, _function(place)) for section, place in _SECTIONS.items() if _has(config, section)]
    functions.append(("agent.", agents.get(config.agent.name).get_config))
    if "env" in config:  # a machine without a simulator has no `env` here, and imports none
        functions.append(("env.", importlib.import_module("qt_jax.envs.suites").of(config).get_config))
    said: dict[str, str] = {}
    for section, function in functions:
        comments = _DEFAULT.findall(inspect.getsource(function))
        said |= {f"--config.{section}{key}": comment for key, comment in comments}
    lines = []
    for key, value in sorted(flattened(config).items()):
        comment = said.get(key) or said.get(key.rpartition(".")[0])  # of several alike, once for all
        line = f"{key}={value!r}"
        lines.append(f"{line:50}  # {comment}" if comment else line)
    return "\n".join(lines)


def _has(config: Any, section: str) -> bool:
    return not section or section.split(".")[0] in config


def _function(place: str) -> Callable[..., Any]:
    module, function = place.split(":")
    return getattr(importlib.import_module(f"qt_jax.{module}"), function)
