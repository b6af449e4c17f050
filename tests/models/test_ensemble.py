"""Several networks in one program: each scores as it would alone, and all decide together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax.models.ensemble import Ensemble
from tests.models.test_q_transformer import (
    ACTION,
    MODES,
    WINDOW,
    crop,
    make_network,
    make_params,
    make_segment,
    scores,
)


def mean_scores(logits, dim):
    return scores(logits.mean(0), dim)


@pytest.fixture(params=["per_frame", "window_timesteps"], scope="module")
def setup(request):
    """Two networks with parameters of their own, and the forced logits of each, [2, B, S, D, N, 1]."""
    ensemble = Ensemble(make_network(networks=2, **MODES[request.param]))
    one = make_params(ensemble.network)
    params = jax.tree.map(lambda x: jnp.stack([x, 1.3 * x]), one)
    score = jax.jit(ensemble.score)
    return ensemble, params, lambda segment: np.asarray(score(params, segment)), make_segment()


def of_network(params, number):
    return jax.tree.map(lambda x: x[number], params)


def test_each_network_has_its_own_first_parameters():
    ensemble = Ensemble(make_network(cameras=(), networks=2))
    key = jax.random.key(3)
    params = jax.jit(ensemble.init)(key)
    for number, own in enumerate(ensemble.keys(key)):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
            of_network(params, number),
            jax.jit(ensemble.network.init)(own),
        )
    assert np.abs(np.diff(params["head"], axis=0)).max() > 0.01


def test_each_network_scores_as_it_would_alone(setup):
    ensemble, params, score, segment = setup
    found, alone = score(segment), jax.jit(ensemble.network.score)
    for number in range(2):
        np.testing.assert_allclose(found[number], alone(of_network(params, number), segment), atol=5e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1


def window_of(ensemble, params, segment):
    """What is kept of the segment's frames: [M, w, ...]."""

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    def each_step(x):
        return np.repeat(x, WINDOW, axis=0)

    episodes = segment.camera_mask, segment.instruction, segment.episode_return
    mask, *asked = jax.tree.map(each_step, episodes)
    frames = jax.tree.map(flat, segment.images), mask, flat(segment.state), *asked
    cache = jax.jit(ensemble.encode_frame)(params, *frames, flat(segment.step))
    return jax.tree.map(lambda x: x.reshape(-1, WINDOW, *x.shape[1:]), cache)


def test_cached_decisions_are_of_all_networks_together(setup):
    """Greedy, beam and rank: their scores are the means of what each network gives the same prefix.

    Of a rank all candidates are the same where their uniforms are.
    """
    ensemble, params, score, segment = setup
    segment = crop(segment, 0, WINDOW)
    cache, mask = window_of(ensemble, params, segment), jnp.ones((2, WINDOW), bool)
    assert all(x.shape[:3] == (2, WINDOW, 2) for x in jax.tree.leaves(cache)), "[M, w, K, ...]"
    inputs, every = (params, cache, mask, segment.tokens), np.ones(3, bool)
    uniforms = np.full((2, 2, 3), 0.5, np.float32)

    def candidates(logits, dim):
        return jax.nn.softmax(mean_scores(logits, dim)), mean_scores(logits, dim)

    decoded = {
        "greedy": jax.jit(lambda *x: ensemble.greedy(*x, mean_scores))(*inputs),
        "beam": jax.jit(lambda *x: ensemble.beam(*x, mean_scores, 2, False, every))(*inputs),
        "rank": jax.jit(lambda *x: ensemble.rank(*x, mean_scores, candidates, uniforms, every))(*inputs),
    }
    for name, (tokens, values) in decoded.items():
        taken = np.array(segment.tokens)
        taken[:, -1] = tokens
        forced = score(dataclasses.replace(segment, tokens=taken)).mean(0)[:, -1, ..., 0]
        forced = np.where(ACTION.bin_mask(), forced, -np.inf)
        np.testing.assert_allclose(values, forced, atol=5e-5, err_msg=name)
        if name == "greedy":
            np.testing.assert_array_equal(tokens, forced.argmax(-1))


def test_a_segment_is_decoded_by_all_networks_together(setup):
    ensemble, params, score, segment = setup
    tokens, values = jax.jit(lambda x: ensemble.decode_segment(params, x, mean_scores))(segment)
    taken = np.array(segment.tokens)
    taken[:, 4] = tokens[:, 4]
    forced = score(dataclasses.replace(segment, tokens=taken)).mean(0)[:, 4, ..., 0]
    np.testing.assert_allclose(values[:, 4], np.where(ACTION.bin_mask(), forced, -np.inf), atol=5e-5)
    np.testing.assert_array_equal(tokens[:, 4], values[:, 4].argmax(-1))
