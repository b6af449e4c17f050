"""BridgeData V2: a WidowX arm, 7 action dims at 5 Hz, one camera and a state.

Its authors publish it as RLDS, bridge_dataset 1.0.0. Every episode counts as a demonstration; add failures of
your own robot by `--config.data.tables` (docs/data.md). Data: a copy below `config.data.root`.

Planned, not run. Hardware: from 4 TPU v5e. Memory: 8.6 of 16 GiB on each, as compiled
(experiments/results/plan_experiments.md). Time: about fractal.py's. Expected result: none is known.
"""

import ml_collections

from experiments import robot_data


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = robot_data.get_config("bridge_v2", agent)
    config.workdir = f"runs/bridge/{agent}"
    config.data.action_bounds = "quantiles"  # most motions are far smaller than the bounds of the release
    return config
