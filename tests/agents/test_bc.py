import copy
import dataclasses

import jax.numpy as jnp
import numpy as np

from qt_jax import losses
from qt_jax.agents import bc
from qt_jax.specs import Interface, ObservationSpec
from qt_jax.training.config import default_config
from tests.models.test_q_transformer import ACTION, make_segment

CONFIG = default_config("bc")


class FixedLogits:
    """A network whose logits are given."""

    def __init__(self, logits):
        self.interface = Interface(ACTION, ObservationSpec((), (8, 8), 1, ""), 12)
        self._logits = logits

    def score(self, params, segment, key):
        return self._logits


def test_cross_entropy_by_hand():
    """Logits of 0, 1, ..., 7 in each dim, of which the gripper has two; only trainable steps count."""
    trainable, tokens = np.asarray([[True, True, False]]), np.asarray([[[7, 2, 0], [0, 5, 1], [3, 3, 1]]])
    segment = dataclasses.replace(make_segment(steps=3, batch=1), trainable=trainable, tokens=tokens)
    logits = jnp.broadcast_to(jnp.arange(8.0)[:, None], (1, 3, 3, 8, 1)).at[0, 2].multiply(50.0)
    sums = bc.loss(CONFIG, FixedLogits(logits), {}, None, segment, None)
    of_eight, of_two = np.log(np.exp(np.arange(8.0)).sum()), np.log(np.exp([0.0, 1.0]).sum())
    np.testing.assert_allclose(
        sums["loss"], (4 * of_eight + 2 * of_two - (7 + 2 + 0 + 0 + 5 + 1), 6), rtol=1e-6
    )
    np.testing.assert_allclose(losses.mean(sums["token_accuracy"]), 2 / 6, rtol=1e-6)


def test_labels_of_neighbouring_bins_by_hand():
    """At half of a range of 8 bins a neighbour's weight is exp(-1/4); the gripper has none."""
    segment = dataclasses.replace(make_segment(steps=1, batch=1), tokens=np.asarray([[[7, 2, 1]]]))
    config = copy.deepcopy(CONFIG)
    config.agent.label_width = 0.5
    logits = jnp.broadcast_to(jnp.arange(8.0)[:, None], (1, 1, 3, 8, 1))
    log_probs = np.arange(8.0) - np.log(np.exp(np.arange(8.0)).sum())
    expected = -(1.0 - np.log(np.exp([0.0, 1.0]).sum()))
    for token in (7, 2):
        weights = np.exp(-np.abs(np.arange(8) - token) / 4)
        expected -= (weights * log_probs).sum() / weights.sum()
    sums = bc.loss(config, FixedLogits(logits), {}, None, segment, None)
    np.testing.assert_allclose(sums["loss"], (expected, 3), rtol=1e-6)


def test_relabelled_segments_are_not_imitated():
    segment = dataclasses.replace(make_segment(steps=3, batch=2), relabelled=np.asarray([False, True]))
    sums = bc.loss(CONFIG, FixedLogits(jnp.zeros((2, 3, 3, 8, 1))), {}, None, segment, None)
    np.testing.assert_allclose(sums["loss"], (3 * (2 * np.log(8) + np.log(2)), 9), rtol=1e-6)


def test_scores_leave_out_absent_bins():
    bin_mask = ACTION.bin_mask()
    scores = bc.scores(None, bin_mask[2], jnp.zeros((1, 8, 1)))
    np.testing.assert_allclose(scores[:2], np.log([0.5, 0.5]), rtol=1e-6)
    assert np.isneginf(scores[2:]).all()


def test_two_networks_average_probabilities():
    """Not logits, whose mean would be (1/3, 2/3)."""
    shares = np.log([[0.2, 0.8] + [9.0] * 6, [1.0, 1.0] + [9.0] * 6])
    scores = bc.scores(None, ACTION.bin_mask()[2], jnp.asarray(shares)[..., None])
    np.testing.assert_allclose(np.exp(scores), [0.35, 0.65] + [0.0] * 6, rtol=1e-5)
