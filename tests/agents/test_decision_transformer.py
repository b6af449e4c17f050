import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from qt_jax.agents import decision_transformer
from qt_jax.export import live
from qt_jax.serving.policy import Policy
from qt_jax.specs import ActionSpec, PolicySpec
from tests.agents import by_hand
from tests.agents.by_hand import segment
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
def test_a_return_reaches_exactly_the_steps_of_its_window(attention):
    network, batch = make_network(attention, cameras=(), return_token=True), make_segment(cameras=())
    params, returns = make_params(network), batch.return_to_go.copy()
    returns[:, 3] = 0.0
    other = dataclasses.replace(batch, return_to_go=returns)
    score = jax.jit(network.score)
    changed = np.abs(score(params, batch) - score(params, other)).max((0, 2, 3, 4)) > 1e-5
    np.testing.assert_array_equal(np.flatnonzero(changed), range(3, min(3 + WINDOW, STEPS)))


@pytest.mark.parametrize("beam", [1, 2])
def test_a_robot_with_some_of_the_dims_remembers_its_actions_as_training_has_them(beam):
    network, batch = make_network(cameras=(), return_token=True, past_actions=True), make_segment(cameras=(), batch=1)
    params, config = make_params(network), ml_collections.ConfigDict({"agent": decision_transformer.get_config()})
    action = ActionSpec(("x", "g"), (-1.0,) * 2, (1.0,) * 2, (8, 2))
    spec = PolicySpec(action, network.observation, (0, 2), WINDOW, network.instruction_dim, "test", "log-probability", 0.1)
    made = live.of_robot(config, network, spec, unit_statistics(4), beam)
    policy = Policy(spec, unit_statistics(4), params, made.encode, made.decode, slots=1)
    step = lambda t: policy.act(np.zeros(1, int), {}, batch.state[:, t], batch.instruction, np.asarray([t == 0]))
    decisions = [step(t) for t in range(STEPS)]
    tokens = np.zeros((1, STEPS, 3), np.int32)
    tokens[0, :, [0, 2]] = np.concatenate([decision.tokens for decision in decisions]).T
    logits = np.asarray(jax.jit(network.score)(params, dataclasses.replace(batch, tokens=tokens)))[0, :, [0, 2], :, 0]
    found, present = np.concatenate([decision.scores for decision in decisions]), action.bin_mask()
    for dim in range(2):
        expected = jax.nn.log_softmax(logits[dim][:, present[dim]])
        np.testing.assert_allclose(found[:, dim][:, present[dim]], expected, atol=1e-4)


def test_a_live_policy_is_told_the_target_return():
    network, batch = make_network(cameras=(), return_token=True), make_segment(cameras=())
    params, config = make_params(network), ml_collections.ConfigDict({"agent": decision_transformer.get_config()})
    config.agent.target_return = 0.5
    spec = PolicySpec(network.action, network.observation, (0, 1, 2), WINDOW, network.instruction_dim, "test", "log-probability", 0.1)
    seen = batch.state[:, 0], batch.instruction
    encode = jax.jit(live.of_robot(config, network, spec, unit_statistics(4), beam=1).encode)
    told = jax.tree.leaves(encode(params, {}, *seen))

    def differs(value):
        frame = jax.tree.leaves(jax.jit(network.encode_frame)(params, {}, {}, *seen, jnp.full(2, value)))
        return max(np.abs(x - y).max() for x, y in zip(told, frame, strict=True))

    assert differs(0.5) < 1e-5 and differs(1.0) > 1e-3
