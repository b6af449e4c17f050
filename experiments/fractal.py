"""RT-1's own data, network and action: the setting of the paper, as far as it is public.

The data are Open X-Embodiment's fractal20220817_data 0.1.0, read from Google's public bucket or, faster, from
a copy (`--config.data.root=DIR`). They are demonstrations. The failed autonomous episodes that the paper's
claim needs were not published with them; add your own robot's by `--config.data.tables` (docs/data.md).

Planned, not run. Hardware: from 4 TPU v5e. Memory: 8.7 of 16 GiB on each, as compiled
(experiments/results/plan_experiments.md). Time: at the published peak of their arithmetic one hour for
200,000 steps on those, so several. Expected result: none is known.

There is no robot here: `evaluate` needs one. `export` and `serve` give the policy to yours (docs/robot.md).
"""

import ml_collections

from experiments import robot_data


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = robot_data.get_config("fractal_arm", agent)
    config.workdir = f"runs/fractal/{agent}"
    config.data.root = "gs://gresearch/robotics"
    return config
