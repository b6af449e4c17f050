"""Attention entropy of each layer, in both attention modes, and the loss that holds it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.models import entropy
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.watched import Watched
from qt_jax.training.config import default_config
from qt_jax.training.state import init_state, train_step
from tests.models.test_q_transformer import make_network, make_params, make_segment

MODES = {
    "per_frame": {},
    "window_scanned": {"attention": "window", "scan_layers": True, "remat": "full"},
    "return_conditioned": {"return_conditioned": True},
}


def test_share_by_hand():
    """Of equal weights, of one key alone, of one key that is all there is, and of weights 3/4 and 1/4."""
    logits = jnp.asarray([[0.0, 0.0, 0.0, -1e9], [50.0, 0.0, 0.0, 0.0], [1.0, -1e9, -1e9, -1e9]])
    found = entropy.share(logits, logits > -1e8)
    np.testing.assert_allclose(found, [1.0, 0.0, 1.0], atol=1e-6)
    found = entropy.share(jnp.log(jnp.asarray([3.0, 1.0])), jnp.ones((), bool))
    np.testing.assert_allclose(found, (np.log(4) - 0.75 * np.log(3)) / np.log(2), rtol=1e-6)


def entropies(network, params, segment):
    def score(params):
        watched = Watched.of(network, params)
        watched.score(params, segment)
        return watched.entropies()

    found = jax.jit(score)(params)
    return {name.removeprefix("attention_entropy/"): float(x / count) for name, (x, count) in found.items()}


@pytest.mark.parametrize("mode", MODES)
def test_each_layer_by_its_queries(mode):
    """Queries of 0 see all keys alike, however few an episode's first steps have; great ones see one key."""
    network = make_network(cameras=(), **MODES[mode])
    params, segment = make_params(network), make_segment(cameras=())
    valid = np.ones_like(segment.valid)
    valid[:, :4] = False  # as before the start of an episode
    segment = dataclasses.replace(segment, valid=valid, trainable=valid)
    params["transformer"]["age_bias"] *= 0.0
    query, scale = params["transformer"]["blocks"]["query"], jnp.asarray([0.0, 1e4])
    params["transformer"]["blocks"]["query"] = {
        "kernel": query["kernel"] * scale[:, None, None, None],
        "bias": query["bias"] * scale[:, None, None],
    }
    found = entropies(network, params, segment)
    assert list(found) == ["0", "1", "frames_0"]
    np.testing.assert_allclose([found["0"], found["frames_0"]], 1.0, atol=1e-5)
    assert found["1"] < 0.05


def test_only_passes_with_the_online_parameters_are_noted():
    """And of those what is trainable: 5 steps of the first row; the mean, if an agent scores twice."""
    network, segment = make_network(cameras=(), layers=1), make_segment(cameras=())
    half = dataclasses.replace(segment, trainable=np.arange(9) < np.asarray([[5], [0]]))

    def score(params):
        watched = Watched.of(network, params)
        plain = watched.score(jax.tree.map(jnp.copy, params), half)
        assert watched.entropies() == {}
        with pytest.raises(UserError, match="entropy_target needs an agent whose loss calls network.score"):
            watched.control()
        logits, once = watched.score(params, half), watched.entropies()
        watched.score(params, half)
        return plain, logits, once, watched.entropies()

    plain, logits, once, twice = jax.jit(score)(make_params(network))
    np.testing.assert_allclose(logits, plain, rtol=1e-5)
    ((total, count),) = once.values()
    assert count == 5 * 3 and 0 < total < count
    np.testing.assert_allclose(twice["attention_entropy/0"], (total, count), rtol=1e-6)


def test_control_by_hand():
    """Entropies of .6, 1 and .6 of 4 tokens, a target of .8, weights of .5, .5 and 1, which grows no more."""
    parameters, total = jnp.log(jnp.asarray([0.5, 0.5, 1.5])) / 10, jnp.asarray([2.4, 4.0, 2.4])
    loss, weights = entropy.control(parameters, total, jnp.asarray(4), 0.8)
    np.testing.assert_allclose(weights, [0.5, 0.5, 1.0], rtol=1e-6)
    of_parameters = parameters[0] * -0.8 + parameters[1] * 0.8
    np.testing.assert_allclose(loss, (of_parameters - 0.5 * 2.4 - 0.5 * 4.0 - 2.4) / 3, rtol=1e-5)
    found = jax.grad(lambda *x: entropy.control(*x, jnp.asarray(4), 0.8)[0], (0, 1))(parameters, total)
    np.testing.assert_allclose(found[0], [-0.8 / 3, 0.8 / 3, 0.0], rtol=1e-5)
    np.testing.assert_allclose(found[1], [-0.5 / 3, -0.5 / 3, -1 / 3], rtol=1e-6)
    falling = jax.grad(lambda x: entropy.control(x, total + 1.0, jnp.asarray(4), 0.8)[0])(parameters)
    np.testing.assert_allclose(falling[2], 0.2 / 3, rtol=1e-4)  # above the target it falls again


def test_a_low_entropy_is_moved_beyond_its_target_and_the_weight_falls_again():
    config = default_config("bc")
    config.value_range = (0.0, 1.0)
    config.optimizer.update({"learning_rate": 5e-3, "final_learning_rate": 1.0, "warmup_steps": 0})
    config = ml_collections.FrozenConfigDict(config)
    ensemble = Ensemble(make_network(cameras=(), layers=1, entropy_target=0.8))
    state, segment = init_state(config, ensemble), make_segment(steps=4, cameras=())
    blocks = state.params["transformer"]["blocks"]
    blocks["query"]["kernel"] = 3 * blocks["query"]["kernel"]
    step, found = jax.jit(functools.partial(train_step, config, ensemble)), []
    for _ in range(200):
        state, metrics = step(state, segment)
        found.append((metrics["attention_entropy/0"], metrics["entropy_weight/0"]))
    entropies, weights = np.asarray(found).T
    np.testing.assert_allclose(weights[0], entropy.INITIAL_WEIGHT, rtol=1e-5)
    assert entropies[0] < 0.6 and entropies[-1] > 0.8
    assert weights.max() > 10 * weights[0] and weights[-1] < 0.9 * weights.max()


def test_without_a_target_nothing_is_added():
    """No parameter, and the parameters that there are have the same bits with one."""
    plain, held = make_network(), make_network(entropy_target=0.5)
    without, params = (network.init(jax.random.key(0)) for network in (plain, held))
    weights = params["transformer"].pop("entropy_weight")
    np.testing.assert_allclose(jnp.exp(10 * weights), [entropy.INITIAL_WEIGHT] * 3, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, params, without)
