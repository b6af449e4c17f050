"""The benchmark on state-only MT10: `metaworld_benchmark.py:METHOD,RECIPE,SEED`.

metaworld_recipes.py has the names. A pool, one for each seed, holds 100 demonstrations, 200 noisy, 200
systematically failing and 40 wandering autonomous episodes a task; recipes h and i have pools of their own.

Hardware: 2 CPU cores. Time: five to eight minutes to collect a pool; for a run about three and a half minutes
to train and a third of a minute to evaluate on a core (the median of
experiments/results/metaworld/benchmark.jsonl). Memory: not measured. Result: docs/results.md.
"""

import ml_collections

from experiments import pools
from experiments.metaworld_recipes import CLONE, METHODS, apply
from qt_jax.envs import metaworld


def get_config(arguments: str = "q_transformer,a,0") -> ml_collections.ConfigDict:
    method, recipe, seed = arguments.split(",")
    agent, settings = METHODS[method]
    config = pools.get_config("metaworld_benchmark", agent, int(seed), metaworld.get_config())
    config.env.max_decisions = 40
    config.workdir = f"runs/metaworld_benchmark/{method}/{recipe}/{seed}"
    config.evaluate.seed = 1  # the diagnosis used 0
    apply(config, settings, recipe)
    if method == CLONE:
        pools.clone(config)
    return config
