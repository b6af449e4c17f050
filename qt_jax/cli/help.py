"""What `--help` of a door says of a config's settings: each with its value and, after a #, the comment beside its default in the code."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

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
    places = [*_SECTIONS.items(), ("agent.", f"agents.{config.agent.name}:get_config")]
    places += [("env.", f"envs.{config.env.suite}:get_config")] if "env" in config else []
    said: dict[str, str] = {}
    for section, place in places:
        if not section or section.split(".")[0] in config:  # a machine without a simulator has no `env` here, and imports none
            module, function = place.split(":")
            source = inspect.getsource(getattr(importlib.import_module(f"qt_jax.{module}"), function))
            said |= {f"--config.{section}{key}": comment for key, comment in _DEFAULT.findall(source)}
    lines = (f"{key}={value!r}" for key, value in sorted(flattened(config).items()))
    return "\n".join(f"{line:50}  # {comment}" if (comment := said.get(line.partition("=")[0])) else line for line in lines)
