import jax
import numpy as np

from qt_jax.training.augment import random_shift
from tests.models.test_q_transformer import make_segment


def test_shift_is_repeatable_and_the_same_for_all_frames_of_a_segment():
    segment = make_segment(steps=3, batch=6)
    still = np.repeat(segment.images["front"][:, :1], 3, axis=1)
    object.__setattr__(segment, "images", {"front": still})
    moved = np.asarray(random_shift(segment, jax.random.key(1), 2).images["front"])
    np.testing.assert_array_equal(moved, random_shift(segment, jax.random.key(1), 2).images["front"])
    np.testing.assert_array_equal(moved[:, 0], moved[:, 2])
    padded = np.pad(still[:, 0], [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")
    offsets = [{(y, x) for y in range(5) for x in range(5) if (padded[b, y : y + 16, x : x + 16] == moved[b, 0]).all()} for b in range(6)]
    assert all(offsets) and len(set.union(*offsets)) > 1
