"""Three robots at once: RT-1's data, BridgeData V2 and Language Table (the mixture `oxe`), one network for
the dims of all of them.

Planned, not run. Data: the three below `config.data.root`, as `fractal20220817_data/0.1.0`,
`bridge_dataset/1.0.0` and `language_table/0.0.1`. Hardware: from 4 TPU v5e
(experiments/results/plan_experiments.md); time: twice fractal.py's steps; expected result: none is known.
"""

import ml_collections

from experiments import robot_data


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = robot_data.get_config("oxe", agent)
    config.workdir = f"runs/oxe_mix/{agent}"
    config.train.steps = 400_000
    return config
