"""State-only MT50: 50 demonstrations and 100 noisy autonomous episodes of each of 50 tasks.

Planned, not run to its end. Hardware: 2 CPU cores. Time: about two hours, by metaworld_mt10.py's
(experiments/results/bench_state.json): 7,500 episodes instead of 3,000 are collected, and four times as many
steps trained. Memory: about metaworld_mt10.py's. Expected result: none is known.
"""

import ml_collections

from experiments import metaworld_mt10


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = metaworld_mt10.get_config(agent)
    config.workdir = f"runs/metaworld_mt50/{agent}"
    config.env.tasks = ("mt50",)
    config.env.max_decisions = 100  # within 40 the experts of lever-pull and bin-picking do not succeed
    config.collect.demonstrations = 50
    config.collect.autonomous = 100
    config.data.path = "data/metaworld_mt50_state"
    config.train.steps = 24_000
    return config
