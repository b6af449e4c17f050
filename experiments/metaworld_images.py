"""The benchmark from images: `metaworld_images.py:METHOD,RECIPE,SEED`, on recipes a and e, six tasks of MT10.

The tasks need no grasp and no marker. A policy sees 64x64 images and the arm's own state, and no poses of
objects; all else is as in metaworld_benchmark.py (metaworld_recipes.py has the names). A pool, one for each
seed, holds 10 demonstrations, 200 noisy and 40 wandering episodes a task.

Hardware: 2 CPU cores. Time: 7 to 17 minutes to train a run. Memory: not measured. Result: docs/results.md.
"""

import ml_collections

from experiments import pools
from experiments.metaworld_recipes import METHODS, apply
from qt_jax.envs import metaworld

TASKS = ("door-open", "drawer-open", "drawer-close", "button-press-topdown", "window-open", "window-close")


def get_config(arguments: str = "q_transformer,a,0") -> ml_collections.ConfigDict:
    method, recipe, seed = arguments.split(",")
    agent, settings = METHODS[method]
    config = pools.get_config("metaworld_images", agent, int(seed), metaworld.get_config())
    config.workdir = f"runs/metaworld_images/{method}/{recipe}/{seed}"
    config.env.tasks = TASKS
    config.env.cameras = (metaworld.CAMERA,)
    config.env.image_size = 64
    config.env.state = "proprioception"
    config.env.max_decisions = 40
    config.collect.demonstrations = 10
    config.collect.autonomous = 240
    config.collect.mix = ml_collections.ConfigDict({"noise": 200, "wander": 40})
    config.data.augment.shift = 4
    config.evaluate.seed = 1  # the diagnosis used 0
    apply(config, settings, recipe)
    return config
