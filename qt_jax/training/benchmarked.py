"""The settings that this project's figures have, for data of your own.

`config.default_config` has the paper's where it gives them. These were chosen on five tasks of Meta-World
(experiments/diagnosis.md) and measured on ten others, from states, with one frame and two layers
(docs/which_method.md).
"""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from qt_jax.agents import backup
from qt_jax.errors import require_one_of
from qt_jax.models import q_transformer as model
from qt_jax.training.config import default_config

TRAINED_STEPS = 4
"""Of a segment, beside what its backups and its window need."""

SETTINGS = {
    "q_transformer": {
        "agent.alpha": 3.0,
        "agent.backup": "skip_first_dim",
        "agent.n_step": 5,
        "agent.target_rate": 0.03,
        "agent.value_loss": "logistic",
        "data.time_limits": "terminal",
        "model.dropout": 0.1,
    },
    "bc": {"model.dropout": 0.1},
    "decision_transformer": {"model.dropout": 0.1},
    "awac": {
        "agent.monte_carlo": True,
        "agent.positive_filter": True,
        "agent.target_rate": 0.03,
        "agent.temperature": 0.1,
        "data.time_limits": "terminal",
    },
    "iql": {
        "agent.expectile": 0.7,
        "agent.n_step": 5,
        "agent.target_rate": 0.03,
        "agent.temperature": 0.1,
        "data.time_limits": "terminal",
        "model.dropout": 0.1,
    },
    "cql": {
        "agent.alpha": 0.1,
        "agent.backup": "skip_first_dim",
        "agent.n_step": 5,
        "agent.target_rate": 0.03,
        "agent.temperature": 0.03,
        "data.time_limits": "terminal",
    },
}
"""{agent: {key: value}}. Which episodes are imitated, and how batches are balanced, depends on the data."""


def benchmarked_config(
    agent: str = "q_transformer", network: Callable[[], ml_collections.ConfigDict] = model.laptop
) -> ml_collections.ConfigDict:
    """Returns `default_config` with the agent's settings of the benchmark.

    Args:
        agent: a name of `SETTINGS`.
        network: its sizes, `model.laptop` or `model.paper`.

    Raises:
        UserError: for an agent that was not measured.

    """
    require_one_of("agent", agent, tuple(SETTINGS))
    config = default_config(agent, network)
    config.update_from_flattened_dict(SETTINGS[agent])
    config.data.segment_length = TRAINED_STEPS + backup.steps(config) + config.model.window - 1
    return config
