"""Conservative Q-learning (Kumar et al. 2020, its CQL(H)) on the autoregressive Q.

TD targets without the Monte-Carlo bound; the conservative term of each dim is T logsumexp(Q/T) - Q(taken).
"""

from __future__ import annotations

import ml_collections

from qt_jax.agents import q_transformer
from qt_jax.agents.q_transformer import (
    ADDITIVE,
    RETURN_CONDITIONED,
    SCORE_NAME,
    action_values,
    candidates,
    check,
    loss,
    outputs,
    scores,
    targets,
)

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


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings of `q_transformer` with other defaults."""
    config = q_transformer.get_config()
    config.name = "cql"  # of the algorithm; or "module:name" of yours
    config.monte_carlo = False
    config.conservatism = "softmax"
    config.alpha = 0.1
    config.temperature = 0.03  # of returns in [0, 1] (default of this project)
    return config
