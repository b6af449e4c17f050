"""Which part of the behaviour head does what, on the pools of the diagnosis (metaworld_diagnosis.py).

A name is a variant of `VARIANTS`, a cell of `CELLS` and a seed:
`--config=experiments/metaworld_behaviour.py:weight_1,wandering,0`. All variants are the Q-Transformer of the
benchmark but for what they say; beside them stand the imitations and AWAC on the same data. These pools are
for finding out, no benchmark uses their tasks.

Hardware: 2 CPU cores. Time: three minutes a run on a core. Memory: not measured. Result:
experiments/results/metaworld/behaviour.jsonl.
"""

import ml_collections

from experiments import metaworld_diagnosis
from experiments.metaworld_recipes import METHODS
from experiments.metaworld_tries import alpha

CELLS = {
    "wandering": ("noise=60",),
    "few_noise": ("demonstration=10", "noise=60"),
    "few_systematic": ("demonstration=10", "perception_bias=20", "wrong_task=20", "stuck_gripper=20"),
}
"""The data, {cell: config.data.limits}. Wandering data has no demonstrations."""


def behaviour(weight: float, of: str = "all") -> dict[str, float | str]:
    return {"agent.behaviour_weight": weight, "agent.behaviour_of": of}


WEIGHT_1 = behaviour(1.0)
SUPPORT = WEIGHT_1 | {"agent.support": 0.3}
POOLED = SUPPORT | {"agent.support_width": 3 / 64}
CLOSED = {"agent.conservatism": "closed_form"}

VARIANTS = {
    "plain": {},
    "alpha_1": alpha(1.0),
    "alpha_.3": alpha(0.3),
    "weight_.1": behaviour(0.1),
    "weight_1": WEIGHT_1,
    "weight_1_alpha_1": WEIGHT_1 | alpha(1.0),
    "weight_1_of_successes": behaviour(1.0, "successes"),
    "support": SUPPORT,
    "support_pooled": POOLED,
    "support_pooled_no_conservatism": POOLED | {"agent.conservatism": "none"},
    "closed_form": WEIGHT_1 | CLOSED,
    "closed_form_pooled": WEIGHT_1 | CLOSED | {"agent.support_width": 3 / 64},
    "rank": WEIGHT_1 | {"evaluate.decode": "rank:16"},
    "chain": {"agent.backup": "chain"},
    "skip_decoded": {"agent.backup": "skip_decoded"},
}
"""{variant: settings that differ from the benchmark's Q-Transformer}."""

BESIDE = ("bc_successes", "decision_transformer", "awac")
"""Methods of the benchmark that are run on the same data."""


def get_config(arguments: str = "weight_1,wandering,0") -> ml_collections.ConfigDict:
    name, cell, seed = arguments.split(",")
    agent, settings = METHODS[name] if name in BESIDE else METHODS["q_transformer"]
    config = metaworld_diagnosis.base(agent, int(seed))
    config.update_from_flattened_dict(settings | VARIANTS.get(name, {}))
    config.workdir = f"runs/metaworld_behaviour/{name}/{cell}/{seed}"
    config.data.limits = CELLS[cell]
    config.evaluate.episodes = 8
    if cell == "wandering":
        config.data.balance.demonstrations = None  # there are none
    return config
