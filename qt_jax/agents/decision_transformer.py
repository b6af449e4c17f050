"""Decision Transformer (Chen et al. 2021): behaviour cloning of everything, each frame told its return-to-go; at the robot it is told
`config.agent.target_return`, which rewards of 0 until success leave as it is.

Its sequence is the window: frames, each with its return-to-go, and the actions at all of them but the newest (`config.model.past_actions`):
tokens before those of the step's own action, which see the window's frames and the actions before them and are masked before the episode's
start. Frames see no action. A window of one frame has no past actions.
"""

from __future__ import annotations

import ml_collections

from qt_jax.agents.bc import ADDITIVE, SCORE_NAME, USES_TARGET, first_step_values, loss, outputs, scores

__all__ = ["ADDITIVE", "SCORE_NAME", "USES_TARGET", "first_step_values", "get_config", "loss", "outputs", "scores"]


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "decision_transformer"
    config.target_return = 1.0  # what the policy is told at the robot
    return config
