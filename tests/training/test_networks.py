"""A train step of several networks: each learns as it would alone, from targets of them all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from qt_jax import agents, losses
from qt_jax.models.ensemble import Ensemble
from qt_jax.training import validation
from qt_jax.training.config import default_config
from qt_jax.training.state import TrainState, init_state, train_step
from tests.agents import by_hand
from tests.models.test_q_transformer import make_network, make_segment

CLIP = 0.05
"""Less than each network's gradient."""


def step_of(agent, networks, dropout=0.0):
    """Returns the first state of so many networks; and the train step and validation on one batch."""
    config = default_config(agent)
    config.value_range, config.optimizer.warmup_steps, config.optimizer.clip_norm = (0.0, 1.0), 0, CLIP
    config.model.update(networks=networks, dropout=dropout)
    config = ml_collections.FrozenConfigDict(config)
    outputs = agents.get(agent).outputs(config)
    settings = {"layers": 1, "width": 16, "networks": networks, "dropout": dropout}
    ensemble = Ensemble(make_network(cameras=(), outputs=outputs, **settings))
    batch = make_segment(steps=4, cameras=())
    batch = dataclasses.replace(batch, reward=np.full((2, 4), 0.2, np.float32))
    step = jax.jit(functools.partial(train_step, config, ensemble))
    validate = jax.jit(functools.partial(validation.step, config, ensemble))
    first = jax.jit(functools.partial(init_state, config, ensemble))()
    return first, lambda state: step(state, batch), lambda state: validate(state, batch)


def both(one: TrainState, two: TrainState) -> TrainState:
    """Two networks with these parameters; both states are of step 0, whose moments are 0."""
    stacked = {
        name: jax.tree.map(lambda x, y: jnp.stack([x, y]), getattr(one, name), getattr(two, name))
        for name in ("params", "target_params")
    }
    moments = jax.tree.map(lambda x: jnp.stack([x, x]) if x.ndim else x, one.opt_state)
    return dataclasses.replace(one, **stacked, opt_state=moments)


def moved(state: TrainState) -> TrainState:
    """The same with other parameters."""
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), state.params)
    return dataclasses.replace(state, params=params)


def assert_close(found, expected, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, expected)


def test_each_network_learns_as_it_would_alone():
    """Its gradient is not divided, is clipped by its own norm, and does not depend on the other network.

    What is reported is the mean of the two. The moments are a tenth of the clipped gradient.
    """
    one, step, validate = step_of("bc", networks=1)
    two = moved(one)
    alone = [step(state) for state in (one, two)]
    _, step_both, validate_both = step_of("bc", networks=2)
    together, metrics = step_both(both(one, two))
    for number, (state, _) in enumerate(alone):
        moment = jax.tree.map(lambda x, n=number: x[n], together.opt_state[1][0].mu)
        assert_close(moment, state.opt_state[1][0].mu, atol=1e-7)
        norm = np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(moment)))
        np.testing.assert_allclose(norm, 0.1 * CLIP, rtol=1e-3)
    first, second = (metrics for _, metrics in alone)
    assert first["grad_norm"] > CLIP and abs(first["loss"] - second["loss"]) > 0.01
    means = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
    assert_close(metrics, means, rtol=1e-4, atol=1e-6)
    sums = jax.tree.map(jnp.add, *(validate(state)["sums"] for state in (one, two)))
    found = validate_both(both(one, two))["sums"]
    own = [name for name in sums if not name.startswith("greedy")]  # those are of the bins of both together
    assert_close([found[name] for name in own], [sums[name] for name in own], rtol=1e-4)


def test_two_equal_networks_are_one():
    """Of Q-Transformer, whose targets are made of both."""
    state, step, _ = step_of("q_transformer", networks=1)
    after, metrics = step(state)
    together, found = step_of("q_transformer", networks=2)[1](both(state, state))
    assert_close(found, metrics, rtol=1e-4, atol=1e-6)
    for number in range(2):
        own = jax.tree.map(lambda x, n=number: x[n], together.opt_state[1][0].mu)
        assert_close(own, after.opt_state[1][0].mu, atol=1e-6)


def test_each_network_has_its_own_dropout():
    state = step_of("bc", networks=1)[0]
    together, _ = step_of("bc", networks=2, dropout=0.5)[1](both(state, state))
    assert np.abs(np.diff(together.opt_state[1][0].mu["head"], axis=0)).max() > 1e-5


@pytest.mark.parametrize("name", sorted(agents.AGENTS))
def test_of_two_equal_networks_targets_and_scores_are_those_of_one(name):
    agent, batch = agents.get(name), by_hand.segment((0.1, 0.3), terminal=False)
    config, exists = by_hand.config_of(agent), batch.bin_mask(3)[:, None]
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(1, 3, 2, 3, agent.outputs(config))), jnp.float32)
    for choice in losses.OF_NETWORKS if "target_q" in config.agent else (None,):
        if choice:
            config.agent.target_q = config.agent.acting_q = choice

        def outputs(params, config=config):
            logits = by_hand.ENSEMBLE.score(params, batch)
            found = [agent.scores(config, exists, logits)]
            if agent.targets:
                found.append(agent.targets(config, by_hand.ENSEMBLE, params, batch))
                found.append(agent.action_values(config, by_hand.ENSEMBLE, params, batch))
            ranks = agent.candidates(config)
            return found + ([ranks(exists, logits)] if ranks else [])

        assert_close(outputs((params, params)), outputs(params), rtol=1e-5)
