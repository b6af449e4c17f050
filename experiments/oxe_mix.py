"""Three robots at once: RT-1's data, BridgeData V2 and Language Table, one network for the dims of all.

It trains on the mixture `oxe`. Data: the three below `config.data.root`, as `fractal20220817_data/0.1.0`,
`bridge_dataset/1.0.0` and `language_table/0.0.1`.

Planned, not run. Hardware: from 4 TPU v5e. Memory: 8.7 of 16 GiB on each, as compiled
(experiments/results/plan_experiments.md). Time: twice fractal.py's steps. Expected result: none is known.
"""

import ml_collections

from experiments import robot_data


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = robot_data.get_config("oxe", agent)
    config.workdir = f"runs/oxe_mix/{agent}"
    config.train.steps = 400_000
    return config
