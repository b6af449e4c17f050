import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx

from qt_jax.agents import decision_transformer
from qt_jax.errors import UserError
from qt_jax.export import checkpoint_policy
from qt_jax.models.ensemble import Ensemble
from qt_jax.policy.jax_policy import Policy
from qt_jax.specs import GREEDY, ActionSpec, Decoding, PolicySpec
from qt_jax.training import setup
from tests.agents import by_hand
from tests.agents.by_hand import segment
from tests.data.recipes import make_config, numbers_entries
from tests.data.synthetic import unit_statistics
from tests.models.test_q_transformer import STEPS, WINDOW, make_network, make_params, make_segment

POLICY = by_hand.policy(by_hand.PROBABILITIES, by_hand.PROBABILITIES)


def loss(batch):
    return by_hand.means(decision_transformer, POLICY, None, batch)["loss"]


def test_loss_by_hand():
    np.testing.assert_allclose(loss(segment()), -(np.log(0.5) + np.log(0.25)) / 2, rtol=1e-5)
    np.testing.assert_allclose(loss(segment(bins=(3, 0))), -np.log(0.5), rtol=1e-5)
    assert loss(by_hand.relabelled(segment())) == 0
    np.testing.assert_array_equal(loss(by_hand.with_other_last_record(segment())), loss(segment()))


@pytest.mark.parametrize("attention", ["per_frame", "window"])
def test_the_return_of_its_episode_reaches_every_step(attention):
    network, batch = make_network(attention, cameras=(), return_conditioned=True), make_segment(cameras=())
    params, score = make_params(network), jax.jit(network.score)
    other = dataclasses.replace(batch, episode_return=np.float32([1.0, 0.0]))
    changed = np.abs(score(params, batch) - score(params, other)).max((2, 3, 4)) > 1e-5
    np.testing.assert_array_equal(changed, [[False] * STEPS, [True] * STEPS])


TIMESTEPS = 6


@pytest.mark.parametrize("attention", ["per_frame", "window"])
def test_a_timestep_reaches_the_steps_whose_window_has_it_and_late_ones_are_the_last(attention):
    network = make_network(attention, cameras=(), return_conditioned=True, timesteps=TIMESTEPS)
    params, score, batch = make_params(network), jax.jit(network.score), make_segment(cameras=())

    def changed(place, value):
        step = batch.step.copy()
        step[:, place] = value
        other = score(params, dataclasses.replace(batch, step=step))
        return np.flatnonzero(np.abs(score(params, batch) - other).max((0, 2, 3, 4)) > 1e-5).tolist()

    assert changed(2, 4) == [2, 3, 4]
    assert changed(TIMESTEPS, TIMESTEPS - 1) == changed(TIMESTEPS, 1000) == []


def test_the_embedding_of_the_timestep_is_added_to_the_tokens_of_the_frame_and_of_the_past_action():
    """In the mode "window" these tokens are what is kept of a frame."""
    shape = {"attention": "window", "cameras": (), "return_conditioned": True}
    plain, network = make_network(**shape), make_network(**shape, timesteps=TIMESTEPS)
    params, batch = make_params(network), make_segment(cameras=())
    seen = {}, {}, batch.state[:, 0], batch.instruction, batch.episode_return
    table = params.pop("timestep_embedding")
    tokens = plain.encode_frame(params, *seen)
    found = network.encode_frame(params | {"timestep_embedding": table}, *seen, np.int32([2, 99]))
    np.testing.assert_allclose(found["frame"] - tokens, table[np.int32([[2], [5]])] + 0 * tokens, atol=1e-5)
    np.testing.assert_allclose(found["timestep"], table[np.int32([2, 5])], atol=1e-6)

    window = jax.tree.map(lambda x: jnp.repeat(x[:, None], WINDOW, axis=1), found)
    module = nnx.merge(network.graphdef, params | {"timestep_embedding": table})
    actions = module.past_actions(batch.tokens[:, :WINDOW])
    _, past = module.window_context(window, np.ones((2, WINDOW), bool), actions)
    np.testing.assert_allclose(past - actions, table[np.int32([[2], [5]])] + 0 * actions, atol=1e-5)


def test_timesteps_that_no_episode_reaches_are_refused(synthetic_root):
    config = make_config()
    config.agent = decision_transformer.get_config()
    config.agent.timesteps = 25
    entries = numbers_entries(config, synthetic_root)
    with pytest.raises(UserError, match="timesteps is 25; the longest training episode has 24 steps, .* 24;"):
        setup.prepare(config, entries)
    config.agent.timesteps = 24
    setup.prepare(config, entries)


@pytest.mark.parametrize("decoding", [GREEDY, Decoding("beam", 2)], ids=str)
def test_a_robot_with_some_of_the_dims_remembers_its_actions_as_training_has_them(decoding):
    network, batch = (
        make_network(cameras=(), return_conditioned=True),
        make_segment(cameras=(), batch=1),
    )
    params, config = (
        make_params(network),
        ml_collections.ConfigDict({"agent": decision_transformer.get_config(), "model": network.config}),
    )
    action = ActionSpec(("x", "g"), (-1.0,) * 2, (1.0,) * 2, (8, 2))
    spec = spec_of(network, action, (0, 2), target_return=1.0)
    spec = dataclasses.replace(spec, decoding=decoding)
    made = checkpoint_policy.of_robot(config, Ensemble(network), spec, unit_statistics(4))
    policy = Policy(spec, unit_statistics(4), params, made.encode, made.decode, capacity=1)

    def step(t):
        return policy.act(np.zeros(1, int), {}, batch.state[:, t], batch.instruction, np.asarray([t == 0]))

    decisions = [step(t) for t in range(STEPS)]
    tokens = np.zeros((1, STEPS, 3), np.int32)
    tokens[0, :, [0, 2]] = np.concatenate([decision.tokens for decision in decisions]).T
    logits = np.asarray(jax.jit(network.score)(params, dataclasses.replace(batch, tokens=tokens)))[
        0, :, [0, 2], :, 0
    ]
    found, present = np.concatenate([decision.scores for decision in decisions]), action.bin_mask()
    for dim in range(2):
        expected = jax.nn.log_softmax(logits[dim][:, present[dim]])
        np.testing.assert_allclose(found[:, dim][:, present[dim]], expected, atol=1e-4)


def spec_of(network, action, network_dims, target_return):
    own = dataclasses.replace(network.interface, action=action)
    return PolicySpec(own, network_dims, WINDOW, "test", "log-probability", 0.1, target_return)


def test_a_policy_asks_for_the_return_that_is_stored_with_it():
    network, batch = make_network(cameras=(), return_conditioned=True), make_segment(cameras=())
    params = make_params(network)
    config = ml_collections.ConfigDict({"agent": decision_transformer.get_config(), "model": network.config})

    def made(target_return):
        spec = spec_of(network, network.interface.action, (0, 1, 2), target_return)
        return checkpoint_policy.of_robot(config, Ensemble(network), spec, unit_statistics(4))

    seen = batch.state[:, 0], batch.instruction
    asked = jax.tree.leaves(jax.jit(made(0.5).encode)(params, {}, *seen))

    def differs(value):
        frame = jax.tree.leaves(jax.jit(network.encode_frame)(params, {}, {}, *seen, jnp.full(2, value)))
        return max(np.abs(x - y).max() for x, y in zip(asked, frame, strict=True))

    assert differs(0.5) < 1e-5 and differs(1.0) > 1e-3
    with pytest.raises(UserError, match="The policy's spec has no target_return; train it again"):
        made(None)
