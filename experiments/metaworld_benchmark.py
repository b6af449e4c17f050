"""The benchmark on state-only MT10: `metaworld_benchmark.py:q_transformer,a,3` is a method on recipe a with the pool and the seed 3.

A pool holds 100 demonstrations, 200 noisy and 200 systematically failing autonomous episodes a task. Hardware: 2 CPU cores; a pool takes
about eight minutes to collect. What each recipe selects and each method sets: benchmark.py in this folder; results: README.
"""

import ml_collections

from experiments import metaworld_pools


def get_config(arguments: str = "q_transformer,a,0") -> ml_collections.ConfigDict:
    agent, recipe, seed = arguments.split(",")
    return metaworld_pools.get_config("metaworld_benchmark", agent, int(seed))
