"""The grid of the diagnosis: what failures are worth, by their kind and the number of demonstrations.

`metaworld_grid.py:q_transformer.successes,25_noise,3` is the benchmark's Q-Transformer on 25 demonstrations a
task and the successes among 60 noisy episodes, with pool and seed 3. `python -m benchmarks.metaworld_grid`
estimates, paired by seed, Q-Transformer on all less Q-Transformer on the successes, and less the best
behaviour cloning.

Hardware: 2 CPU cores, on the pools of metaworld_diagnosis.py. Time: about three minutes a run; all 150 runs
took 189 s on an H100. Memory: not measured. Result: experiments/diagnosis.md.
"""

import ml_collections

from experiments import metaworld_diagnosis
from experiments.metaworld_recipes import METHODS
from experiments.metaworld_tries import SYSTEMATIC

DEMONSTRATIONS = (5, 25, 100)
AUTONOMOUS = {"none": (), "noise": ("noise=60",), "systematic": SYSTEMATIC}
CELLS = {
    f"{n}_{kind}": (f"demonstration={n}", *more) for n in DEMONSTRATIONS for kind, more in AUTONOMOUS.items()
}
SEEN = {
    "q_transformer.all": METHODS["q_transformer"],
    "q_transformer.successes": METHODS["q_transformer"],
    "bc.all": METHODS["bc_all"],
    "bc.successes": METHODS["bc_successes"],
    "bc.demonstrations": METHODS["bc_demonstrations"],
}


def names() -> list[tuple[str, str]]:
    """Lists (method, cell) of the grid; where there are only demonstrations, all are successes."""
    alone = ("q_transformer.all", "bc.demonstrations")
    with_failures = [method for method in SEEN if method != "bc.demonstrations"]
    return [
        (method, cell) for cell in CELLS for method in (alone if cell.endswith("none") else with_failures)
    ]


def get_config(arguments: str = "q_transformer.all,5_noise,0") -> ml_collections.ConfigDict:
    method, cell, seed = arguments.split(",")
    agent, settings = SEEN[method]
    config = metaworld_diagnosis.base(agent, int(seed))
    config.workdir = f"runs/metaworld_grid/{method}/{cell}/{seed}"
    config.update_from_flattened_dict(settings)
    config.data.limits = CELLS[cell]
    config.data.episodes = method.partition(".")[2]
    if cell.endswith("none"):
        config.data.balance.demonstrations = None  # there is nothing else
    return config
