"""Which part of the method is worth what, on the pools of the diagnosis (metaworld_diagnosis.py).

A name is a method of `METHODS`, a cell of `CELLS` and a seed:
`--config=experiments/metaworld_gates.py:weight_1,wandering,0`. These pools are for finding out; no benchmark
uses their tasks.

Hardware: 2 CPU cores. Time: two to three minutes a run on a core. Memory: not measured. Result:
experiments/diagnosis.md.
"""

import ml_collections

from experiments import metaworld_diagnosis, pools
from experiments.metaworld_tries import CELLS as TRIED_ON
from experiments.metaworld_tries import DROPOUT, SUCCESSES

CELLS = TRIED_ON | {"wandering": ("wander=60",), "people": ("human=10", "policy=60")}
"""The data, {cell: config.data.limits}, with numbers of episodes a task.

wandering: no demonstrations. people: their demonstrations, and the episodes of the policy that clones them.
"""

DIFFICULTY = {
    "bc_all": ("bc", {}),
    "bc_all_dropout": ("bc", DROPOUT),
    "bc_successes": ("bc", SUCCESSES),
    "bc_successes_dropout": ("bc", SUCCESSES | DROPOUT),
    "clone": ("bc", DROPOUT),
}
"""Behaviour cloning: it alone set how hard the new cells are, before another method saw them."""

METHODS = DIFFICULTY


def names() -> list[tuple[str, str]]:
    """Lists (method, cell), in the order in which they are run."""
    return [(name, cell) for cell in CELLS for name in METHODS if name != "clone"]


def get_config(arguments: str = "weight_1,wandering,0") -> ml_collections.ConfigDict:
    name, cell, seed = arguments.split(",")
    agent, settings = METHODS[name]
    config = metaworld_diagnosis.base(agent, int(seed))
    config.workdir = f"runs/metaworld_gates/{name}/{cell}/{seed}"
    config.update_from_flattened_dict(settings)
    config.data.limits = CELLS[cell]
    config.evaluate.episodes = 10
    if cell == "people":
        pools.people(config, 10, 60)
    if name == "clone":
        pools.clone(config)
    return config
