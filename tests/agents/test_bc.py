import jax.numpy as jnp
import numpy as np

from qt_jax import losses
from qt_jax.agents import bc
from qt_jax.specs import ActionSpec
from tests.models.test_q_transformer import make_segment


class FixedLogits:
    """A network whose logits are given."""

    def __init__(self, logits):
        self.action = ActionSpec(("x", "y", "g"), (-1.0,) * 3, (1.0,) * 3, (8, 8, 2))
        self._logits = logits

    def score(self, params, segment, key):
        return self._logits


def test_cross_entropy_by_hand():
    """Uniform logits: log 8 for the dims of 8 bins, log 2 for the gripper's two; only trainable steps count."""
    segment = make_segment(steps=3, batch=1)
    trainable = np.asarray([[True, True, False]])
    object.__setattr__(segment, "trainable", trainable)
    logits = jnp.zeros((1, 3, 3, 8, 1)).at[0, 2].set(50.0 * jnp.arange(8)[:, None])
    sums = bc.loss(None, FixedLogits(logits), {}, None, segment, None)
    np.testing.assert_allclose(sums["loss"], (2 * (2 * np.log(8) + np.log(2)), 6), rtol=1e-6)
    assert 0 <= losses.mean(sums["token_accuracy"]) <= 1


def test_relabelled_segments_are_not_imitated():
    segment = make_segment(steps=3, batch=2)
    object.__setattr__(segment, "relabelled", np.asarray([False, True]))
    sums = bc.loss(None, FixedLogits(jnp.zeros((2, 3, 3, 8, 1))), {}, None, segment, None)
    np.testing.assert_allclose(sums["loss"], (3 * (2 * np.log(8) + np.log(2)), 9), rtol=1e-6)


def test_scores_leave_out_absent_bins():
    bin_mask = FixedLogits(None).action.bin_mask()
    scores = bc.scores(None, bin_mask[2], jnp.zeros((1, 8, 1)))
    np.testing.assert_allclose(scores[0, :2], np.log([0.5, 0.5]), rtol=1e-6)
    assert np.isneginf(scores[0, 2:]).all()
