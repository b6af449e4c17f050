"""`--help` of a command that takes a config: lists each setting with its value and meaning.

The meaning is the comment in the code beside the setting's default, or on the lines above it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable
from typing import Any

from qt_jax import agents
from qt_jax.cli.settings import flattened

_SECTIONS = (
    ("", "training.config:default_config"),
    ("agent.", "agents.q_transformer:get_config"),  # it explains what the agents have in common
    ("model.", "models.q_transformer:laptop"),
    ("mesh.", "training.mesh:get_config"),
    ("distributed.", "training.distributed:get_config"),
    ("data.augment.", "training.augment:get_config"),
    ("collect.", "envs.collectors:how_written"),
    ("evaluate.", "evaluation.settings:get_config"),
    ("improve.", "improvement.settings:get_config"),
)
"""(section, function that returns its defaults, in a module of qt_jax)."""


def of(config: Any) -> str:
    """Returns a line for each setting of `config`."""
    functions = [(section, _function(place)) for section, place in _SECTIONS if _has(config, section)]
    functions.append(("agent.", agents.get(config.agent.name).get_config))
    if "env" in config:  # a machine without a simulator has no `env` here, and imports none
        suite = importlib.import_module("qt_jax.envs.suites").of(config)
        collection = "envs.play_collection" if suite.PLAY else "envs.collectors"
        functions += [("env.", suite.get_config), ("collect.", _function(f"{collection}:get_config"))]
    comments: dict[str, str] = {}
    for section, function in functions:
        comments |= {f"--config.{section}{key}": comment for key, comment in _comments(function).items()}

    lines = []
    for key, value in sorted(flattened(config).items()):
        # One comment on a section explains settings that are alike.
        comment = comments.get(key) or comments.get(key.rpartition(".")[0])
        line = f"{key}={value!r}"
        lines.append(f"{line:50}  # {comment}" if comment else line)
    return "\n".join(lines)


def _comments(function: Callable[..., Any]) -> dict[str, str]:
    """Reads the comments on the settings, `config.KEY = DEFAULT`, that a function makes: {KEY: comment}."""
    source = textwrap.dedent(inspect.getsource(function))
    beside: dict[int, str] = {}  # by line
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            whole_line = token.line.lstrip().startswith("#")
            (above if whole_line else beside)[token.start[0]] = token.string.lstrip("# ")

    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        setting, first, last = ast.unparse(node.targets[0]), node.lineno, node.end_lineno or node.lineno
        if setting.startswith("config."):
            lines = [beside[line] for line in range(first, last + 1) if line in beside]
            line = first - 1
            while line in above:
                lines.insert(0, above[line])
                line -= 1
            if lines:
                found[setting.removeprefix("config.")] = " ".join(lines)
    return found


def _has(config: Any, section: str) -> bool:
    return not section or section.split(".")[0] in config


def _function(place: str) -> Callable[..., Any]:
    module, function = place.split(":")
    return getattr(importlib.import_module(f"qt_jax.{module}"), function)
