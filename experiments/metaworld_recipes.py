"""Recipes of the benchmark: what a run sees of its pool, and the settings of each method.

`METHODS` are the algorithms, each with the best of its tries by mean success of the two cells; of equals the
first (diagnosis.md). `bc_balanced` was chosen without tries: it imitates everything, with the balanced
batches that most other methods were better with; later tries are within four points.
`q_transformer_as_published` has this project's defaults, which are the paper's where they are known.
`ABLATIONS` are changes of the method `q_transformer`.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from experiments import pools
from experiments.metaworld_tries import DROPOUT, HALF, TRIES, kinds

RECIPES = {
    "a": (("demonstration=10", "noise=200"), "all"),
    "b": (
        ("demonstration=20", "noise=200", "perception_bias=67", "wrong_task=67", "stuck_gripper=67"),
        "demonstrations_and_failures",
    ),
    "c": (("demonstration=100", "noise=200"), "all"),
    "d": (("demonstration=10", "perception_bias=67", "wrong_task=67", "stuck_gripper=67"), "all"),
    "e": (("wander=40",), "all"),
    "h": (("human=10", "policy=60"), "all"),
    "i": (("human=10", "intervention=60"), "all"),
    "j": (("human=10", "intervention=60"), "all"),
}
"""{name: (config.data.limits, config.data.episodes)}, with numbers of episodes a task.

a: few demonstrations and noisy autonomous episodes. b: few demonstrations and failures alone, 9% positives
(the paper's simulation: 8%). c: many demonstrations and noisy episodes. d: as a, but with systematic errors.
e: wandering, without demonstrations. h: demonstrations of people, and the episodes of the policy that clones
them, as in the paper. i: as h, but a person takes over from the clone now and then. How hard e, h and i are
was set by behaviour cloning alone (metaworld_gates.py). j: the data of i, without training on the steps in
which the robot rests (IDLE), as labs prepare the demonstrations of people.
"""

AUTONOMOUS_OF = {"h": "policy", "i": "intervention", "j": "intervention"}
"""{recipe whose pool begins with people: the collector of its autonomous episodes}."""

IDLE = {"j": "delta:0.01"}
"""{recipe: config.data.idle}: a simulated person rests with zeros, and the clone with the bin beside zero."""

CLONE = "clone"
"""The run that acts in the autonomous episodes of recipes h and i."""

ONE_STEP = {"agent.n_step": 1, "data.segment_length": 5}
CHAIN = ONE_STEP | {"agent.backup": "chain"}
"""One step at a time, with maximisation over each dim: the backup in which a value travels slowest."""
SLOW_TARGET = {"agent.target_rate": 0.005}

ABLATIONS = {
    "no_conservatism": {"agent.conservatism": "none"},
    "softmax_conservatism": {"agent.conservatism": "softmax", "agent.alpha": 0.1},
    "softmax_conservatism_cold": {
        "agent.conservatism": "softmax",
        "agent.alpha": 0.1,
        "agent.temperature": 0.03,
    },
    "no_monte_carlo": {"agent.monte_carlo": False},
    "chain": {"agent.backup": "chain"},
    "n_step_1": ONE_STEP,
    "chain_n_step_1": CHAIN,
    "chain_n_step_1_no_monte_carlo": CHAIN | {"agent.monte_carlo": False},
    "chain_n_step_1_slow_target": CHAIN | SLOW_TARGET,
    "chain_n_step_1_slow_target_no_monte_carlo": CHAIN | SLOW_TARGET | {"agent.monte_carlo": False},
    "alpha_1": {"agent.alpha": 1.0},
    "alpha_30": {"agent.alpha": 30.0},
    "bins_16": {"data.bins": 16, "agent.alpha": 3.0 * 15 / 63},
    "bins_32": {"data.bins": 32, "agent.alpha": 3.0 * 31 / 63},
    "squared": {"agent.value_loss": "squared"},
    "histogram": {"agent.value_loss": "histogram"},
    "two_networks": {"model.networks": 2, "agent.target_q": "least", "agent.acting_q": "least"},
    "slow_target": SLOW_TARGET,
    "bootstrapped_limits": {"data.time_limits": "bootstrap"},
    "window_per_frame": {"model.window": 2, "data.segment_length": 10},
    "window_window": {"model.window": 2, "data.segment_length": 10, "model.attention": "window"},
    "natural_batches": {"data.balance.demonstrations": None},
    "mostly_demonstrations": {"data.balance.demonstrations": 0.8},
}
"""{name: settings}. Where the number N of bins differs, alpha / (N - 1) stays the same."""

ABLATED_ON = dict.fromkeys(ABLATIONS, ("b",)) | {"natural_batches": ("a", "b", "d")}
"""{ablation: recipes}.

natural_batches also where BC on successes, which has such batches, is better in some tasks (diagnosis.md).
"""

SCENE_ABLATED_ON = {"natural_batches": ("a", "d")}
"""{ablation: recipes} on the second suite, chosen after its table was seen, to explain it."""


def apply(config: ml_collections.ConfigDict, settings: dict[str, Any], recipe: str) -> None:
    """Sets a method's settings and a recipe; the method's own filter narrows the recipe."""
    config.update_from_flattened_dict(settings)
    config.data.limits, of_recipe = RECIPES[recipe]
    if recipe in AUTONOMOUS_OF:
        pools.people(config, 10, 60, AUTONOMOUS_OF[recipe])
    config.data.idle = IDLE.get(recipe, "")
    if config.data.episodes == "all":
        config.data.episodes = of_recipe
    elif config.data.episodes == "successes" and of_recipe == "demonstrations_and_failures":
        config.data.episodes = "demonstrations"
    if config.data.episodes == "demonstrations" or recipe == "e":
        config.data.balance.demonstrations = None  # only demonstrations are there, or none


METHODS = {
    "q_transformer": ("q_transformer", TRIES["q_transformer"]["half_fast_ended_skip_5_mild"]),
    "bc_all": ("bc", TRIES["bc"]["all"]),
    "bc_balanced": ("bc", HALF | DROPOUT),
    "bc_successes": ("bc", TRIES["bc"]["successes_dropout"]),
    "bc_demonstrations": ("bc", TRIES["bc"]["demonstrations_dropout"]),
    "decision_transformer": ("decision_transformer", TRIES["decision_transformer"]["some_dropout"]),
    "iql": ("iql", TRIES["iql"]["half_fast_ended_actor_dropout_5"]),
    "cql": ("cql", TRIES["cql"]["half_fast_ended_skip_5_cold"]),
    "awac": ("awac", TRIES["awac"]["half_positive_fast_ended_monte_carlo"]),
}
METHODS["q_transformer_as_published"] = ("q_transformer", {})
METHODS["q_transformer_dropout"] = ("q_transformer", METHODS["q_transformer"][1] | DROPOUT)
BENCHMARKED = tuple(METHODS)
"""Methods of the benchmark, on the recipes without people."""
METHODS["q_transformer_successes"] = (
    "q_transformer",
    METHODS["q_transformer_dropout"][1] | kinds(None, 0.5),
)
"""Half of each batch are successes, whoever acted.

Chosen on the cells wandering and interventions of metaworld_gates.py, before its first run on the benchmark's
tasks, where it is worth nothing (docs/results.md).
"""
METHODS["q_transformer_wide"] = (
    "q_transformer",
    METHODS["q_transformer_dropout"][1] | {"agent.value_width": 2 / 64},
)
"""What an action was worth counts for neighbouring bins too.

Chosen on the cells people and interventions of metaworld_gates.py (three seeds, decided by a beam of 4: 63
and 68% against 43 and 61% without), before its first run on the benchmark's tasks, where it is worth nothing
(docs/results.md).
"""
METHODS["q_transformer_head"] = (
    "q_transformer",
    METHODS["q_transformer_dropout"][1] | {"agent.behaviour_weight": 1.0, "agent.behaviour_of": "successes"},
)
METHODS["bc_interventions"] = (
    "bc",
    METHODS["bc_demonstrations"][1] | {"data.episodes": "demonstrations_and_interventions"},
)
WITH_PEOPLE = (
    "q_transformer_dropout",
    "q_transformer_successes",
    "q_transformer_wide",
    "q_transformer_head",
    "bc_successes",
    "bc_demonstrations",
    "bc_interventions",
    "bc_all",
    "decision_transformer",
    "awac",
    "iql",
)
"""Methods on the recipes with people."""
METHODS[CLONE] = METHODS["bc_demonstrations"]
METHODS |= {
    f"q_transformer.{name}": ("q_transformer", METHODS["q_transformer"][1] | a)
    for name, a in ABLATIONS.items()
}
