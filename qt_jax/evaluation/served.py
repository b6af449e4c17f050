"""A served policy that is evaluated: what its server says of it, and what is known where it says nothing."""

from __future__ import annotations

from typing import Any

from qt_jax.envs import suites
from qt_jax.errors import UserError
from qt_jax.evaluation import rollouts, runs
from qt_jax.evaluation.evaluate import Evaluated
from qt_jax.policy.observations import Keys
from qt_jax.specs import GREEDY, Decoding

SAID = frozenset({"action", "decision", "decode", "observation", "training"})
"""What a server of this project says of its policy, beside other things."""


def is_ours(metadata: dict[str, Any]) -> bool:
    """Returns whether a server's first message is that of a server of this project, of any version."""
    return {"action", "observation"} <= set(metadata)


def of_server(
    config: Any, url: str, actor: rollouts.Actor, metadata: dict[str, Any], keys: Keys
) -> Evaluated:
    """Describes the policy that a server of this project has.

    Args:
        config: the experiment's.
        url: the server's.
        actor: the policy behind it.
        metadata: the server's first message (docs/robot.md).
        keys: what the server is to call cameras, state and instruction.

    Raises:
        UserError: if it is of another version of qt_jax, or of another robot than the simulator's, or serves
            fewer episodes at once than `config.evaluate.num_envs`.

    """
    suite = suites.of(config)
    if unsaid := sorted(SAID - set(metadata)):
        raise UserError(
            f"{url} does not say its {unsaid}, as a server of this version of qt_jax does; serve the policy "
            "with this version.",
            topic="other-version",
        )
    observation = suite.observation_spec(config.env)
    mine = keys.describe(observation), list(suite.action_spec(config.env).names)
    theirs = metadata["observation"], list(metadata["action"]["names"])
    if theirs != mine:
        raise UserError(
            f"{url} serves a policy of {theirs}; config.env gives {mine}: give the config it was trained "
            "with."
        )
    if config.evaluate.num_envs > metadata["sessions"]:
        raise UserError(
            f"config.evaluate.num_envs is {config.evaluate.num_envs}, {url} serves {metadata['sessions']} "
            "episodes at once; give no more, or serve with a larger --max_sessions."
        )
    asked = str(Decoding.read(config.evaluate.decode))
    if asked not in (str(GREEDY), metadata["decode"]):
        raise UserError(
            f"config.evaluate.decode is {asked!r}, {url} decodes {metadata['decode']!r}; leave it out, or "
            f"serve what `export --decode={asked}` writes."
        )

    training = metadata["training"]
    runs.check_tasks(config, url, training["data"])
    return Evaluated(
        actor=actor,
        names=tuple(metadata["decision"]["names"]),
        agent=training["agent"],
        score_name=metadata["score"],
        decode=metadata["decode"],
        episodes=training["episodes"],
        step=training["step"],
        data=training["data"],
    )


def of_any_server(config: Any, url: str, actor: rollouts.Actor) -> Evaluated:
    """Describes a policy of which its server says nothing."""
    return Evaluated(
        actor=actor,
        names=suites.of(config).action_spec(config.env).names,
        agent=f"policy at {url}",
        score_name="",
        decode=str(GREEDY),
        episodes="",
        step=None,
        data={},
    )
