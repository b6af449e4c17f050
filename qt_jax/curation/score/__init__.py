"""Values for each step of a dataset, each by a network that did not see the episode in training."""

from collections.abc import Callable

import numpy as np

STEP_VALUES = {
    "q": "Q of the action taken, by a network that did not see the episode.",
    "value": "Q of the best action that this network knows there.",
    "advantage": "q less value.",
    "success_probability": "How often other episodes with such a q succeed.",
}
"""{name: its documentation}: what is written for each step, in this order; NaN where nothing was decided."""

ValuesOf = Callable[[int, int, int], np.ndarray]
"""(shard, position, rows) -> the `STEP_VALUES` of a record, float32 [4, rows]."""
