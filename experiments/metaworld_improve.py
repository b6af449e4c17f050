"""Rounds of experience on three tasks of the diagnosis, state-only: `metaworld_improve.py:METHOD,START,SEED`.

A run begins with demonstrations alone (`STARTS`: how many a task), which all methods of a seed share. Four
rounds follow, in which its own policy acts in 40 episodes a task and training goes on. All methods have the
same steps and episodes; their settings are those of the benchmark, frozen before this was written.

Hardware: 2 CPU cores. Time: see `make metaworld-improve`, which runs all of it. Memory: not measured. Result:
docs/improve.md, of a first seed.
"""

import ml_collections

from experiments import metaworld_diagnosis
from experiments.metaworld_recipes import METHODS as FROZEN
from qt_jax.improvement import settings as rounds

TASKS = metaworld_diagnosis.TASKS[:3]
METHODS = ("q_transformer_dropout", "bc_successes", "decision_transformer", "awac")
STARTS = {"ten": 10, "poor": 3}
"""{start: demonstrations a task}. poor: as in the paper, a policy that mostly fails collects."""


def get_config(arguments: str = "q_transformer_dropout,ten,0") -> ml_collections.ConfigDict:
    method, start, seed = arguments.split(",")
    agent, settings = FROZEN[method]
    config = metaworld_diagnosis.base(agent, int(seed))
    config.env.tasks = TASKS
    config.workdir = f"runs/metaworld_improve/{method}/{start}/{seed}"
    config.data.path = f"data/metaworld_improve/{start}_{seed}"
    config.collect.demonstrations, config.collect.autonomous = STARTS[start], 0
    config.evaluate.episodes = 20
    config.evaluate.seed = 1  # the diagnosis used 0
    config.update_from_flattened_dict(settings)
    config.improve = rounds.get_config()
    # One begins with demonstrations alone: their share of a batch is that of what one began with.
    demonstrations, config.data.balance.demonstrations = config.data.balance.demonstrations, None
    if demonstrations is not None:
        config.improve.new_share = 1.0 - demonstrations
    return config
