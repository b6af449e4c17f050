"""What validation says of values, greedy bins and memory, by hand and of a network that learned by heart."""

import dataclasses
import functools
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from qt_jax import agents
from qt_jax.agents import greedy_bins
from qt_jax.data.order import Draw
from qt_jax.models.ensemble import Ensemble
from qt_jax.training import validation
from qt_jax.training.config import default_config
from qt_jax.training.state import init_state, train_step
from tests.agents import by_hand
from tests.models.test_q_transformer import make_network, make_segment


def test_bias_by_hand():
    """Of two steps of a success, .5 and .3 against returns of .25 and .5 (the last record counts nothing)."""
    success, values = by_hand.segment([0.0, 0.5]), jnp.asarray([[0.5, 0.3, 9.0]])
    found = validation.by_outcome(values, success)
    np.testing.assert_allclose(found["success"]["q"], (0.8, 2), rtol=1e-6)
    np.testing.assert_allclose(found["success"]["q_bias"], (0.25 - 0.2, 2), rtol=1e-5)
    assert found["failure"]["q"][1] == 0
    failure = dataclasses.replace(success, success=jnp.asarray([False]))
    np.testing.assert_allclose(
        validation.by_outcome(values, failure)["failure"]["q_bias"], (0.05, 2), rtol=1e-5
    )


def output(q=(0.0, 0), bias=0.0, failure=(0.0, 0), first=(), success=()):
    sums = {"q": q, "q_bias": (bias, q[1])}, {"q": failure, "q_bias": failure}
    return {
        "sums": {"loss": (3.0, 2)},
        "bins": {
            "taken": np.asarray([[5.0, 1.0], [1.0, 2.0]]),
            "greedy": np.asarray([[2.0, 4.0], [0.0, 3.0]]),
        },
        "values": dict(zip(("success", "failure"), sums)),
        "firsts": {
            "value": np.asarray(first),
            "is_first": np.ones(len(first), bool),
            "success": np.asarray(success),
        },
    }


def test_summary_by_hand():
    """Two batches, divided once; of the most frequent bins, 0 and 1, greedy ones are 2 + 3 of 9."""
    held_out = [
        output((1.0, 2), 0.5, first=[0.4], success=[True]),
        output((2.0, 4), 1.0, first=[0.1], success=[False]),
    ]
    trained = [output((1.4, 2), failure=(0.1, 1))]
    assert validation.summary(held_out, trained) == pytest.approx({
        "validation/loss": 1.5,
        "validation/q/success": 0.5, "validation/q_bias/success": 0.25,
        "validation/taken_is_most_frequent": 7 / 9, "validation/greedy_is_most_frequent": 5 / 9,
        "validation/auc_first_q": 1.0, "memorisation/success": 0.2,
    })  # fmt: skip


def test_each_dataset_has_metrics_of_its_own():
    """Of two, one of which has no held-out episode: all together as one alone, then each that has some."""
    of_one = [output((1.0, 2), 0.5, first=[0.4], success=[True])]
    alone = validation.summaries({"arm": of_one}, {"arm": of_one})
    assert alone == validation.summary(of_one, of_one)
    found = validation.summaries({"arm": of_one, "other": []}, {"arm": of_one, "other": of_one})
    assert found["validation/loss"] == found["validation/arm/loss"] == 1.5
    assert found["validation/arm/q/success"] == 0.5 and "memorisation/arm/success" in found
    assert not any("other" in name for name in found)


def test_segments_are_measured_with_those_of_their_dataset():
    recipe = Mock()
    recipe.mixture.sources = [SimpleNamespace(name=name) for name in ("arm", "other", "empty")]
    draws = [Draw(source, episode, 0, 0, 0) for source, episode in ((0, 3), (1, 0), (0, 4))]
    found = validation._by_dataset(recipe, draws)
    assert found == {"arm": [draws[0], draws[2]], "other": [draws[1]], "empty": []}


def test_bins_are_counted_where_the_mask_is():
    tokens, mask = jnp.asarray([[[1, 0], [2, 1]]]), jnp.asarray([[[True, True], [True, False]]])
    np.testing.assert_array_equal(greedy_bins.counts(tokens, mask, 3), [[0, 1, 1], [1, 0, 0]])


@pytest.fixture(scope="module")
def learned_by_heart():
    """States that say nothing of the outcome, and a few steps on one batch of them."""
    config = default_config()
    config.value_range, config.discount, config.optimizer.warmup_steps = (0.0, 1.0), 1.0, 0
    config.optimizer.learning_rate, config.agent.value_loss, config.train.steps = 1e-2, "logistic", 60
    config.agent.behaviour_weight = 0.1
    config = ml_collections.FrozenConfigDict(config)
    outputs = agents.get(config.agent.name).outputs(config)
    ensemble = Ensemble(make_network(cameras=(), layers=1, outputs=outputs))

    def episodes(seed):
        segment = make_segment(steps=3, batch=8, cameras=(), seed=seed)
        success = np.arange(8) % 2 == 0
        last = np.tile(np.arange(3) == 2, (8, 1))
        return dataclasses.replace(
            segment, success=success, is_last=last, is_terminal=last, trainable=~last,
            is_first=np.tile(np.arange(3) == 0, (8, 1)),
            mc_return=np.float32(success[:, None] & ~last),
            reward=np.float32(success[:, None] & (np.arange(3) == 1)),
        )  # fmt: skip

    state, step = init_state(config, ensemble), jax.jit(functools.partial(train_step, config, ensemble))
    look = jax.jit(functools.partial(validation.step, config, ensemble))
    for _ in range(config.train.steps):
        state, _ = step(state, episodes(0))
    return validation.summary([look(state, episodes(1))], [look(state, episodes(0))])


def test_what_was_learned_by_heart_shows(learned_by_heart):
    assert learned_by_heart["memorisation/success"] > 0.1
    assert learned_by_heart["memorisation/failure"] < -0.1


def test_a_behaviour_head_is_compared_with_the_greedy_bins(learned_by_heart):
    assert 1 / 8 < learned_by_heart["validation/greedy_is_most_probable"] < 1


def test_an_agent_without_values_has_bins_and_entropies():
    config = default_config("bc")
    config.value_range = (0.0, 1.0)
    config = ml_collections.FrozenConfigDict(config)
    ensemble = Ensemble(make_network(cameras=(), layers=1))
    look = functools.partial(validation.step, config, ensemble)
    found = jax.eval_shape(
        look, jax.eval_shape(lambda: init_state(config, ensemble)), make_segment(cameras=())
    )
    assert {"greedy_at_edge", "attention_entropy/0"} <= set(found["sums"]) and set(found) == {"sums", "bins"}
