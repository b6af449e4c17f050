"""Pools of five Meta-World tasks that no benchmark uses, on which the benchmark's settings were chosen.

`metaworld_diagnosis.py:q_transformer.half,few_noise,3` is a try (metaworld_tries.py) on a cell, with pool and
seed 3. The pools are state-only. One holds 100 demonstrations, and 60 noisy, 60 systematically failing and
100 wandering autonomous episodes a task.

Hardware: 2 CPU cores. Time: two minutes to collect a pool; about three minutes for a run on a core (the
median of experiments/results/metaworld/tries.jsonl). Memory: not measured. Result: experiments/diagnosis.md.
"""

import ml_collections

from experiments import pools
from experiments.metaworld_tries import CELLS, PROBES, TRIES
from qt_jax.envs import metaworld

TASKS = ("sweep-into", "hammer", "peg-unplug-side", "push-wall", "coffee-pull")


def base(agent: str, seed: int) -> ml_collections.ConfigDict:
    """Returns the config of an agent on the pool of that seed, before anything was chosen."""
    config = pools.get_config("metaworld_diagnosis", agent, seed, metaworld.get_config())
    config.env.tasks = TASKS
    config.env.max_decisions = 40
    config.collect.mix = {"noise": 60} | dict.fromkeys(pools.SYSTEMATIC, 20) | {"wander": 100}
    config.collect.autonomous = sum(config.collect.mix.values())
    config.evaluate.episodes = 6
    config.evaluate.max_decisions = 60
    config.train.steps = 2000
    return config


def get_config(arguments: str = "q_transformer.half,few_noise,0") -> ml_collections.ConfigDict:
    tried, cell, seed = arguments.split(",")
    agent, _, name = tried.partition(".")
    config = base(agent, int(seed))
    config.workdir = f"runs/metaworld_diagnosis/{tried}/{cell}/{seed}"
    config.data.limits = CELLS[cell]
    config.update_from_flattened_dict(PROBES.get(tried) or TRIES[agent][name])
    return config
