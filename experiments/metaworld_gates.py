"""Which part of the method is worth what, on the pools of the diagnosis (metaworld_diagnosis.py).

`metaworld_gates.py:q_transformer+weight_1+support,wandering,0` is a method of `BASES` with changes of
`CHANGES`, on a cell of `CELLS`, with pool and seed 0. These pools are for finding out; no benchmark uses
their tasks.

Hardware: 2 CPU cores. Time: two to three minutes a run on a core. Memory: not measured. Result:
experiments/diagnosis.md.
"""

import ml_collections

from experiments import metaworld_diagnosis, pools
from experiments.metaworld_recipes import CLONE
from experiments.metaworld_recipes import METHODS as FROZEN
from experiments.metaworld_tries import CELLS as TRIED_ON
from experiments.metaworld_tries import DROPOUT, alpha, kinds

WANDERING = {f"wandering_{count}": (f"wander={count}",) for count in (30, 60)}
CELLS = TRIED_ON | {"wandering": ("wander=40",), "people": ("human=10", "policy=60")}
"""The data, {cell: config.data.limits}, with numbers of episodes a task.

wandering: no demonstrations; fewer and more of these episodes (WANDERING) were tried first. people: their
demonstrations, and the episodes of the policy that clones them.
"""
ASTRAY = "astray"
"""Five times as many episodes as in wandering, in which the task's expert acts less than half as often.

What the behaviour does most is then of no use: there is little to imitate, and much to learn values from. The
paper's simulated data is like it (8% of the episodes succeed).
"""
INTERVENTIONS = "interventions"
"""As people, but a person takes over from the clone now and then: successes hold its mistakes too."""
RESCUED = "rescued"
"""The episodes of INTERVENTIONS without the demonstrations: a record of a robot at work."""

BASES = {
    name: FROZEN[name]
    for name in (
        "q_transformer",
        "decision_transformer",
        "awac",
        "iql",
        "bc_successes",
        "bc_all",
        "cql",
        CLONE,
    )
}
"""The benchmark's methods as they were frozen, {name: (agent, settings)}, and who acts in the cell people."""

CHANGES = {
    "dropout": DROPOUT,
    "weight_.1": {"agent.behaviour_weight": 0.1},
    "weight_1": {"agent.behaviour_weight": 1.0},
    "of_successes": {"agent.behaviour_of": "successes"},
    "support": {"agent.support": 0.3},
    "pooled": {"agent.support_width": 3 / 64},
    "value_width_2": {"agent.value_width": 2 / 64},
    "label_width_2": {"agent.label_width": 2 / 64},
    "value_width_5": {"agent.value_width": 5 / 64},
    "closed_form": {"agent.conservatism": "closed_form"},
    "no_conservatism": {"agent.conservatism": "none"},
    "alpha_.3": alpha(0.3),
    "alpha_1": alpha(1.0),
    "discount_.95": {"discount": 0.95},
    "discount_.9": {"discount": 0.9},
    "natural": {f"data.balance.{kind}": None for kind in ("demonstrations", "successes", "failures")},
    "half_successes": kinds(None, 0.5),
    "networks_3": {"model.networks": 3},
    "chain": {"agent.backup": "chain"},
    "one_step": {"agent.n_step": 1, "data.segment_length": 5},
    "skip_decoded": {"agent.backup": "skip_decoded"},
    "chunk_2": {"model.chunk": 2, "model.execute": 2},
    "chunk_4": {"model.chunk": 4, "model.execute": 4},
    "steps_500": {"train.steps": 500},
    "steps_1000": {"train.steps": 1000},
    "steps_5000": {"train.steps": 5000},
}
"""Changes of a method, applied one after the other."""


def _weighted(change: str) -> tuple[str, ...]:
    return tuple(f"q_transformer+{weight}{change}" for weight in ("weight_.1", "weight_1"))


DIFFICULTY = ("bc_all", "bc_all+dropout", "bc_successes")
"""Behaviour cloning: it alone set how hard the new cells are, before another method saw them."""


HEAD = "q_transformer+weight_1"
GATES = {
    "difficulty": dict.fromkeys((*WANDERING, "wandering", "people"), DIFFICULTY),
    "behaviour": dict.fromkeys(CELLS, ("q_transformer", *_weighted(""), *_weighted("+of_successes"))),
    "on_top": dict.fromkeys(
        CELLS,
        (
            f"{HEAD}+support",
            f"{HEAD}+support+pooled",
            f"{HEAD}+support+pooled+no_conservatism",
            f"{HEAD}+support+pooled+alpha_.3",
            f"{HEAD}+closed_form+pooled",
            f"{HEAD}+closed_form+pooled+alpha_1",
            f"{HEAD}+discount_.95",
            f"{HEAD}+discount_.9",
            f"{HEAD}+half_successes",
        ),
    ),
    "value_width": dict.fromkeys(
        (*CELLS, INTERVENTIONS),
        tuple(f"q_transformer+value_width_{bins}{more}" for bins in (2, 5) for more in ("", "+dropout")),
    ),
    "label_width": dict.fromkeys(
        ("people", INTERVENTIONS),
        tuple(f"{name}+label_width_2" for name in ("bc_successes", "decision_transformer", "awac+dropout")),
    ),
    "dropout": dict.fromkeys(
        CELLS,
        (
            *("q_transformer+dropout", f"{HEAD}+dropout", f"{HEAD}+of_successes+dropout"),
            *("q_transformer+weight_.1+dropout", "q_transformer+weight_.1+of_successes+dropout"),
            *("awac+dropout", "iql+dropout"),  # the others were frozen with it
        ),
    ),
    "networks": dict.fromkeys(
        CELLS,
        tuple(
            f"{name}+networks_3"
            for name in (
                *("q_transformer", "q_transformer+dropout", f"{HEAD}+dropout"),
                *("decision_transformer", "awac", "bc_successes"),
            )
        ),
    ),
    "backup": dict.fromkeys(
        CELLS, tuple(f"q_transformer+dropout+{backup}" for backup in ("chain", "one_step", "skip_decoded"))
    ),
    "beam": {INTERVENTIONS: ("q_transformer+dropout+chain",)},
    "balance_of_others": dict.fromkeys(
        (INTERVENTIONS, "wandering"),
        tuple(
            f"{name}+half_successes" for name in ("decision_transformer", "awac+dropout", "bc_all+dropout")
        ),
    ),
    "conservatism": dict.fromkeys(
        ("wandering", INTERVENTIONS),
        tuple(
            f"q_transformer+dropout{strength}{balance}"
            for strength in ("", "+alpha_.3", "+no_conservatism")
            for balance in ("+half_successes", "+natural")
        ),
    ),
    "chunks": dict.fromkeys(CELLS, tuple(f"q_transformer+dropout+chunk_{count}" for count in (2, 4))),
    "steps": dict.fromkeys(
        CELLS,
        tuple(
            f"{name}+steps_{steps}"
            for name in ("q_transformer+dropout", "bc_successes", "decision_transformer")
            for steps in (500, 1000, 5000)
        ),
    ),
    "astray": {
        ASTRAY: (
            *("q_transformer", "q_transformer+dropout", "q_transformer+dropout+one_step"),
            *(HEAD, f"{HEAD}+dropout", f"{HEAD}+of_successes+dropout", f"{HEAD}+dropout+one_step"),
            *("bc_all+dropout", "bc_successes", "decision_transformer"),
            *("awac", "awac+dropout", "iql", "iql+dropout"),
        )
    },
    "interventions": dict.fromkeys(
        (INTERVENTIONS, RESCUED),
        (
            *("q_transformer+dropout", f"{HEAD}+dropout", f"{HEAD}+of_successes+dropout"),
            *("bc_all+dropout", "bc_successes", "decision_transformer", "awac+dropout", "iql+dropout"),
        ),
    ),
    "beside": dict.fromkeys(CELLS, ("bc_successes", "bc_all+dropout", "decision_transformer", "awac", "iql")),
}
"""{gate: {cell: methods}}, in the order in which they are run."""


def names() -> list[tuple[str, str]]:
    """Lists (method, cell) of all gates."""
    listed = [(name, cell) for gate in GATES.values() for cell, methods in gate.items() for name in methods]
    return list(dict.fromkeys(listed))


def decodes(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the other ways of deciding with which a run is evaluated at its end."""
    headed = config.agent.get("behaviour_weight", 0.0) > 0
    return ("beam:4", *(("rank:1:0.1", "rank:16") if headed else ()))


def astray(config: ml_collections.ConfigDict) -> None:
    """Makes a config's pool that of ASTRAY."""
    config.collect.demonstrations = 0
    config.collect.mix = ml_collections.ConfigDict({"wander": 1.0})
    config.collect.autonomous = 200
    config.collect.wander_expert = 0.15
    config.data.path = f"data/metaworld_diagnosis/astray_{config.seed}"


def get_config(arguments: str = "q_transformer+weight_1,wandering,0") -> ml_collections.ConfigDict:
    name, cell, seed = arguments.split(",")
    base, *changes = name.split("+")
    agent, settings = BASES[base]
    config = metaworld_diagnosis.base(agent, int(seed))
    config.workdir = f"runs/metaworld_gates/{name}/{cell}/{seed}"
    if cell.startswith("wandering") or cell in (ASTRAY, RESCUED):  # no demonstrations to balance with
        settings = settings | {"data.balance.demonstrations": None}
    for change in (settings, *(CHANGES[change] for change in changes)):
        config.update_from_flattened_dict(change)
    whole = dict.fromkeys((ASTRAY, INTERVENTIONS), ())
    config.data.limits = (CELLS | WANDERING | whole | {RESCUED: ("intervention=60",)})[cell]
    config.evaluate.episodes = 10
    if cell == ASTRAY:
        astray(config)
    if cell in ("people", INTERVENTIONS, RESCUED):
        pools.people(config, 10, 60, "policy" if cell == "people" else "intervention")
    if name == CLONE:
        pools.clone(config)
    return config
