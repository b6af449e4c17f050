"""Decision Transformer (Chen et al. 2021): behaviour cloning of all episodes, conditioned on their return.

In training each frame has a token of its episode's return. A robot asks for a good return of the data.

Chen et al. condition on the return-to-go. A robot would have to subtract its rewards from what it asked for,
and nobody gives it any. So here the return is that of the whole episode, whatever the rewards are. With
rewards of 0 until success the two are the same.

Its sequence is the window: the frames, each with the return, and the actions at all of them but the newest.
These actions are tokens before those of the step's own action. They see the window's frames and the actions
before them, and are masked before the episode's start. Frames see no action. A window of one frame has no
past actions.

Chen et al. add a learned embedding of the episode's timestep to each token. `config.agent.timesteps` does so:
to the tokens of a frame and of the action taken there.
"""

from __future__ import annotations

from typing import Any

import ml_collections
from ml_collections import config_dict

from qt_jax.agents import bc
from qt_jax.agents.bc import (
    ADDITIVE,
    SCORE_NAME,
    action_values,
    candidates,
    loss,
    outputs,
    scores,
    targets,
)
from qt_jax.agents.checks import Require

__all__ = [
    "ADDITIVE",
    "RETURN_CONDITIONED",
    "SCORE_NAME",
    "action_values",
    "candidates",
    "check",
    "get_config",
    "loss",
    "outputs",
    "scores",
    "targets",
]

RETURN_CONDITIONED = True


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "decision_transformer"  # of the algorithm; or "module:name" of yours
    config.target_return = config_dict.placeholder(
        float
    )  # asked for at the robot; None: a good one of the data
    # steps of an episode that have a learned embedding each, at most as many as the longest has; later ones
    # take the last; 0: none has
    config.timesteps = 0
    config.label_width = 0.0  # of a kernel: the action taken counts for neighbouring bins too, as in bc.py
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    bc.check(config, require)
    require(config.agent.timesteps >= 0, "agent.timesteps", "0 or more")
