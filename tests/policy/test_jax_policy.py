"""The policy runtime by itself, with networks of the models' tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy.jax_policy import Policy
from qt_jax.specs import PolicySpec
from tests.data.synthetic import unit_statistics
from tests.models.test_q_transformer import (
    ACTION,
    MODES,
    WINDOW,
    make_network,
    make_params,
    make_segment,
    scores,
)


def make_policy(network, params, capacity, buckets=(), candidates=0):
    interface = network.interface
    dims, timesteps = interface.decision.dims_in(interface.decision), network.timesteps
    spec = PolicySpec(interface, dims, WINDOW, "test", "Q", 0.1, timesteps=timesteps, candidates=candidates)

    def decode(params, cache, mask, executed):
        return network.greedy(params, cache, mask, executed, scores)

    def encode(params, images, state, instruction, *step):
        seen = {name: jnp.ones(len(frames), bool) for name, frames in images.items()}
        return network.encode_frame(params, images, seen, state, instruction, jnp.ones(len(state)), *step)

    def judge(params, cache, mask, executed, tokens):
        def known(logits, dims):
            q = jnp.where(ACTION.bin_mask()[dims], logits[..., 0], -jnp.inf)
            return q, q - q.max(-1, keepdims=True)

        return network.judge(params, cache, mask, executed, tokens, known)

    return Policy(spec, unit_statistics(4), params, encode, decode, capacity, buckets, judge)


def test_what_the_policy_does_not_expect_is_named_and_leaves_the_windows_alone():
    network = make_network()
    policy = make_policy(network, network.init(jax.random.key(0)), capacity=2)
    good = {
        "images": {"front": np.zeros((2, 16, 16, 3), np.uint8)}, "state": np.zeros((2, 4), np.float32),
        "instruction": np.zeros((2, 12), np.float32), "is_first": np.ones(2, bool), "episode": np.arange(2),
    }  # fmt: skip
    before = policy.act(**good)
    bad = [
        (
            {"images": {"wrist": good["images"]["front"]}},
            r"cameras \['wrist'\], the policy expects \['front'\]",
        ),
        (
            {"images": {"front": np.zeros((2, 32, 32, 3), np.uint8)}},
            r"images\['front'\] is uint8\[2, 32, 32, 3\]",
        ),
        ({"images": {"front": np.zeros((2, 16, 16, 3), np.float32)}}, r"images\['front'\] is float32"),
        ({"state": np.full((2, 4), np.nan, np.float32)}, "state holds NaN"),
        ({"instruction": np.zeros((2, 7), np.float32)}, "instruction is"),
    ]
    for change, message in bad:
        with pytest.raises(UserError, match=message):
            policy.act(**(good | change))
    after = policy.act(**good)
    np.testing.assert_array_equal(before.tokens, after.tokens)
    assert (np.abs(after.actions) <= 1).all()


def test_a_warm_policy_compiles_nothing_more(artefact):
    """Not at the first request, nor after a failure emptied the windows."""
    policy = artefact.policy(capacity=2, buckets=(1, 2))
    policy.warm_up()
    for _ in range(2):
        policy.act(np.zeros(1, np.int32), *policy._inputs(1), np.ones(1, bool))
        policy.forget_all()
    assert policy._step._cache_size() == 2


@pytest.mark.parametrize("mode", MODES)
def test_runtime_agrees_with_the_teacher_forced_pass(mode):
    """Two episodes out of step: one longer than the window, and one that ends and is followed by another."""
    network = make_network(**MODES[mode])
    params = make_params(network)
    policy, score = make_policy(network, params, capacity=2), jax.jit(network.score)
    one, first, second = (make_segment(steps, 1, seed=seed) for steps, seed in ((9, 1), (4, 2), (5, 3)))
    frames = [[(one, t) for t in range(9)], [(first, t) for t in range(4)] + [(second, t) for t in range(5)]]
    actions = []
    for pair in zip(*frames):

        def stack(get, pair=pair):
            return np.stack([get(segment)[0, t] for segment, t in pair])

        instruction = np.concatenate([segment.instruction for segment, _ in pair])
        is_first = np.asarray([t == 0 for _, t in pair])
        images, state = {"front": stack(lambda s: s.images["front"])}, stack(lambda s: s.state)
        step = {"step": np.int32([t for _, t in pair])} if network.timesteps else {}
        actions.append(policy.act(np.arange(2), images, state, instruction, is_first, **step))
    tokens, values = np.stack([a.tokens for a in actions]), np.stack([a.scores for a in actions])
    present = ACTION.bin_mask()
    for segment, episode, start in ((one, 0, 0), (first, 1, 0), (second, 1, 4)):
        steps = slice(start, start + segment.tokens.shape[1])
        forced = score(params, dataclasses.replace(segment, tokens=tokens[None, steps, episode]))[0, ..., 0]
        np.testing.assert_allclose(
            values[steps, episode][:, present], np.asarray(forced)[:, present], atol=2e-4
        )
