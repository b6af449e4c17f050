"""Runs of a sweep compile once: their numbers are arguments of the program."""

import functools

import jax
import ml_collections
import numpy as np
import pytest

from qt_jax import agents
from qt_jax.segment import segment_struct
from qt_jax.specs import ActionSpec, Interface, ObservationSpec
from qt_jax.training import traced, validation
from qt_jax.training.state import init_state, train_step
from tests import tiny

OTHER = {
    "seed": 7,
    "discount": 0.9,
    "train.steps": 40,
    "optimizer.learning_rate": 1e-4,
    "optimizer.warmup_steps": 5,
    "optimizer.final_learning_rate": 0.5,
    "optimizer.encoder_learning_rate": 0.1,
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_norm": 2.0,
    "agent.alpha": 3.0,
    "agent.temperature": 0.5,
    "agent.expectile": 0.6,
    "agent.target_rate": 0.1,
    "agent.max_weight": 7.0,
    "agent.policy_weight": 0.5,
}


def programs(agent: str, changes: dict) -> list[str]:
    """The train, validation and first programs of a tiny config of `agent`, before they are compiled."""
    config = tiny.get_config(agent)
    config.model.layers, config.value_range = 1, (0.0, 1.0)
    config.update_from_flattened_dict({key: value for key, value in changes.items() if has(config, key)})
    config = ml_collections.FrozenConfigDict(config)
    action, observation = ActionSpec(("x",), (0.0,), (1.0,), (4,)), ObservationSpec((), (8, 8), 3, "")
    interface = Interface(action, observation, 8)
    ensemble = agents.make_ensemble(config, interface)
    settings = traced.values(config)
    first = jax.jit(lambda settings: init_state(traced.With(config, settings), ensemble))
    state = jax.eval_shape(first, settings)
    batch = segment_struct(interface, 2, 3)
    steps = [
        jax.jit(functools.partial(step, config, ensemble)).lower(state, batch)
        for step in (train_step, validation.step)
    ]
    return [lowered.as_text() for lowered in (*steps, first.lower(settings))]


def has(config, key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in (config[section] if section else config)


@pytest.mark.parametrize("agent", ["q_transformer", "iql"])
def test_numbers_change_no_program(agent):
    assert set(OTHER) == set(traced.TRACED)
    assert programs(agent, OTHER) == programs(agent, {})


@pytest.mark.parametrize("seed", [0, 3, 2**31 + 5])
def test_a_seed_is_the_same_as_an_argument(seed):
    config = tiny.get_config()
    config.seed = seed
    key = jax.jit(lambda settings: jax.random.key_data(jax.random.key(settings["seed"])))(
        traced.values(config)
    )
    np.testing.assert_array_equal(key, jax.random.key_data(jax.random.key(seed)))
