"""Defaults of `config.improve`, and their check."""

from __future__ import annotations

from typing import Any

import ml_collections

from qt_jax.errors import UserError
from qt_jax.specs import LEARNED

RECORDED = "recorded"
COLLECT = (*LEARNED, RECORDED)
KEPT, RESET = "kept", "reset"


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults."""
    config = ml_collections.ConfigDict()
    config.rounds = 4  # of experience, after the run in config.workdir
    # who acts in a round: "policy", or "intervention" (a person takes over at times), both in the simulator;
    # "recorded": a robot, whose episodes `serve --record` wrote
    config.collect = LEARNED[0]
    config.episodes = 40  # of each task in a round
    config.new_share = 0.5  # of the segments that are from the rounds, each by its length; rest: config.data
    config.steps = 1000  # of training in a round
    config.optimizer = KEPT  # its moments, from the round before; or "reset"
    config.target = KEPT  # the target network, from the round before; or "reset": the parameters
    config.dataset = ""  # of config.data.mixture: whose robot acts; "": its only one
    return config


def check(config: Any) -> None:
    """Checks the settings of the rounds before anything starts.

    Raises:
        UserError: that names every setting that is wrong.

    """
    from qt_jax.envs import suites  # a config file imports this module for the defaults alone
    from qt_jax.evaluation import runs

    if "improve" not in config:
        raise UserError(
            "The config has no section `improve`; add config.improve = settings.get_config() of "
            "qt_jax.improvement to its file."
        )
    own, problems = config.improve, []
    for name in ("rounds", "episodes", "steps"):
        if own[name] < 1:
            problems.append(f"config.improve.{name} is {own[name]}, expected 1 or more")
    if not 0 < own.new_share < 1:
        problems.append(f"config.improve.new_share is {own.new_share}, expected a share between 0 and 1")
    for name, known in (("collect", COLLECT), ("optimizer", (KEPT, RESET)), ("target", (KEPT, RESET))):
        if own[name] not in known:
            problems.append(f"config.improve.{name} is {own[name]!r}, expected one of {known}")
    if config.data.limits:
        problems.append(
            f"config.data.limits is {tuple(config.data.limits)}, which is of one dataset; collect no more "
            "than that, and set it to ()"
        )
    if own.collect != RECORDED:
        missing = [section for section in ("env", "collect", "evaluate") if section not in config]
        if missing:
            problems.append(
                f"config.improve.collect is {own.collect!r} and the config has no {', '.join(missing)}; take "
                f"an experiment with a simulator, or {RECORDED!r}"
            )
        elif suites.of(config).PLAY:
            problems.append(
                f"config.env.suite is {config.env.suite!r}, whose data are play, which has no rounds"
            )
    if problems:
        raise UserError("; ".join(problems) + ".")
    if evaluates(config):
        runs.check(config)


def evaluates(config: Any) -> bool:
    """Returns whether there is a simulator to evaluate in after each round."""
    return "env" in config and "evaluate" in config


def keeps(config: Any) -> tuple[str, ...]:
    """Returns `config.train.init_keeps` of a round."""
    return tuple(name for name in ("optimizer", "target") if config.improve[name] == KEPT)
