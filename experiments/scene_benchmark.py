"""The benchmark's second suite, on which nothing was chosen: `scene_benchmark.py:METHOD,RECIPE,SEED`.

Eight tasks in OGBench's one scene with one distribution of starts: only the instruction tells them apart. It
is state-only, and the methods are as frozen for Meta-World (metaworld_recipes.py has the names). A pool, one
for each seed, holds 100 demonstrations, 200 noisy and 200 systematically failing autonomous episodes a task.

Hardware: 2 CPU cores. Time: two and a half minutes for a run on a core, three core-hours for all 54 and three
pools (docs/results.md). Memory: not measured. Result: docs/results.md.
"""

import ml_collections

from experiments import pools
from experiments.metaworld_recipes import METHODS, apply
from qt_jax.envs import ogbench_scene


def get_config(arguments: str = "q_transformer,a,0") -> ml_collections.ConfigDict:
    method, recipe, seed = arguments.split(",")
    agent, settings = METHODS[method]
    config = pools.get_config("scene_benchmark", agent, int(seed), ogbench_scene.get_config())
    config.workdir = f"runs/scene_benchmark/{method}/{recipe}/{seed}"
    config.evaluate.seed = 1
    apply(config, settings, recipe)
    return config
