"""`make bench-decisions`: what a decision costs with several networks, chunks, or drawn actions.

Medians of one robot's decisions by `Sessions.act`, of policies with random parameters that take turns, from
states and from images. Writes experiments/results/bench_decisions.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import runs, turns
from benchmarks.learner_step import shipped
from qt_jax import agents
from qt_jax.export import checkpoint_policy
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import Decoding, Interface, PolicySpec
from qt_jax.statistics import Statistics
from qt_jax.training import setup

RESULTS = Path("experiments/results/bench_decisions.json")
SIZES, REPEATS = ("metaworld_mt10", "quickstart"), 200
HEAD = {"agent.behaviour_weight": 1.0}
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "greedy"),
    "2 networks": ({"model.networks": 2}, "greedy"),
    "4 networks": ({"model.networks": 4}, "greedy"),
    "chunks of 4 actions": ({"model.chunk": 4}, "greedy"),
    "with a behaviour head": (HEAD, "greedy"),
    "rank:16": (HEAD, "rank:16"),
    "rank:64": (HEAD, "rank:64"),
}
"""{name: settings, and how actions are decided}."""


def decide(size: str, settings: dict[str, Any], decode: str) -> turns.Way:
    """Returns a function that makes one decision of an episode under way."""
    config, interface = shipped(size)
    config.update_from_flattened_dict(settings)
    interface = setup.with_chunks(config, interface)
    config = setup.with_value_range(config, config.dt_ref)
    ensemble = agents.make_ensemble(config, interface)
    spec = PolicySpec(
        interface,
        tuple(range(interface.decision.dims)),
        window=config.model.window,
        text_encoder="none",
        score_name=agents.get(config.agent.name).SCORE_NAME,
        dt=config.dt_ref,
        decoding=Decoding.read(decode),
        behaviour=agents.has_behaviour(config),
    )
    made = checkpoint_policy.of_robot(config, ensemble, spec, _unit(interface.observation.state_dim))
    params = jax.jit(ensemble.init)(jax.random.key(0))
    policy = Policy(spec, made.statistics, params, made.encode, made.decode, capacity=1)
    policy.warm_up()
    sessions = Sessions(policy, embed=lambda sentence: np.zeros(interface.instruction_dim, np.float32))
    return lambda: sessions.act([_request(interface)])


def _request(interface: Interface) -> Request:
    observation = interface.observation
    images = {name: np.zeros((*observation.image_size, 3), np.uint8) for name in observation.cameras}
    return Request(0, images, np.zeros(observation.state_dim, np.float32), "do it")


def _unit(size: int) -> Statistics:
    """Returns statistics whose normalisation changes nothing."""
    return Statistics(*((value,) * size for value in (0.0, 1.0, -1.0, 1.0, -1.0, 1.0)))


def main() -> None:
    commit, found = runs.code_commit("benchmarks"), {}
    for size in SIZES:
        ways = {name: decide(size, *how) for name, how in WAYS.items()}
        seconds = turns.medians(ways, REPEATS)
        found[size] = {"ms": {name: 1000 * s for name, s in seconds.items()}}
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
