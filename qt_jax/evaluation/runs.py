"""The run that is evaluated: its settings, its checkpoint, and the other runs beside it."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from qt_jax.envs import gl, suites
from qt_jax.errors import UserError
from qt_jax.specs import Decoding
from qt_jax.training import checkpoints
from qt_jax.training.assets import Assets, plain_config
from qt_jax.training.continuing import SAME_NUMBERS

FREE = ("workdir", "evaluate", "collect", "improve", "mesh", "distributed", "data", "optimizer", "seed",
        "train", *SAME_NUMBERS)  # fmt: skip
"""Sections and settings that a trained policy's behaviour does not depend on."""


def check(config: Any) -> None:
    """Raises a UserError for settings with which nothing can be evaluated on this machine."""
    if "env" not in config:
        raise UserError(
            "The config has no env, so there is no simulator to evaluate the policy in; give one with an "
            "env, or export the policy and serve it to the robot."
        )
    settings = config.evaluate
    Decoding.read(settings.decode)
    if config.env.cameras:
        gl.require_backend()
    if min(settings.episodes, settings.num_envs) < 1:
        raise UserError(
            f"config.evaluate has episodes={settings.episodes} and num_envs={settings.num_envs}; give at "
            "least 1 of each."
        )


def load(config: Any) -> tuple[dict, Assets, int]:
    """Reads parameters, assets and step of the checkpoint that `config.evaluate` names.

    Raises:
        UserError: if the run was made with other settings or without data of `config.env.tasks`.

    """
    params, assets, step = checkpoints.load_params(config.workdir, step=config.evaluate.step)
    check_config(config, assets)
    check_tasks(config, config.workdir, assets.data)
    return params, assets, step


def check_config(config: Any, assets: Assets) -> None:
    """Raises a UserError if the run in `config.workdir`, of these assets, was made with other settings."""
    asked = plain_config(config)
    # Other tasks and another time limit than those of training may be evaluated.
    asked["env"] |= {key: assets.config["env"][key] for key in ("tasks", "max_decisions")}
    asked["value_range"] = asked["value_range"] or assets.config["value_range"]
    checkpoints.refuse_other_config(assets.config, asked, config.workdir, free=FREE)


def check_tasks(config: Any, policy: str, data: dict[str, Any]) -> None:
    """Raises a UserError if `policy` was trained without data of a task of `config.env.tasks`.

    Args:
        config: of the evaluation.
        policy: the run's directory or the server's URL, for the message.
        data: success in the training data by task, and of "all".

    """
    missing = sorted(set(suites.of(config).suite_tasks(config.env.tasks)) - set(data))
    if missing:
        raise UserError(
            f"{policy} was trained without data of {missing}; evaluate tasks among "
            f"{sorted(set(data) - {'all'})}."
        )


def env_config(config: Any) -> Any:
    """Returns `config.env` with the time limit of evaluation."""
    settings = config.env.copy_and_resolve_references()
    settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
    return settings


def references(config: Any, task_names: Sequence[str], file: str, command: str) -> dict[str, dict[str, Any]]:
    """Reads what `command` wrote about the runs of `config.evaluate.references`.

    Returns:
        {workdir: summary}.

    Raises:
        UserError: for a run that has no such file, or one about other tasks.

    """
    return {workdir: _reference(workdir, task_names, file, command) for workdir in config.evaluate.references}


def _reference(workdir: str, task_names: Sequence[str], file: str, command: str) -> dict[str, Any]:
    path = epath.Path(workdir) / file
    if not path.exists():
        raise UserError(
            f"config.evaluate.references names {workdir}, which has no {file}; run `{command}` on it first."
        )
    summary = json.loads(path.read_text())
    if set(summary["tasks"]) != set(task_names):
        raise UserError(f"{path} is about {sorted(summary['tasks'])}, this run about {sorted(task_names)}.")
    return summary


def by_method(summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Names runs by their method (agent and data), and by the directory too where two would be alike.

    Args:
        summaries: {workdir: summary}.

    Returns:
        {name: summary}.

    """
    count = collections.Counter(summary["method"] for summary in summaries.values())

    def name(workdir: str, method: str) -> str:
        return method if count[method] == 1 else f"{method}, {workdir}"

    return {name(workdir, summary["method"]): summary for workdir, summary in summaries.items()}
