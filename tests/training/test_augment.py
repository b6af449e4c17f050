import dataclasses

import jax
import numpy as np
import pytest

from qt_jax.training import augment
from tests.models.test_q_transformer import make_segment


def changed(segment, key=1, **settings):
    config = augment.get_config()
    config.update(settings)
    return np.asarray(augment.augment(segment, jax.random.key(key), config).images["front"])


def still_segment():
    """Three equal frames a segment."""
    segment = make_segment(steps=3, batch=6)
    return dataclasses.replace(
        segment, images={"front": np.repeat(segment.images["front"][:, :1], 3, axis=1)}
    )


@pytest.mark.parametrize(
    "settings", [{"shift": 2}, {"brightness": 0.3}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.1}]
)
def test_same_key_same_result_for_all_frames_of_a_segment(settings):
    segment = still_segment()
    found = changed(segment, **settings)
    assert found.dtype == np.uint8 and (found != segment.images["front"]).any()
    np.testing.assert_array_equal(found, changed(segment, **settings))
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    assert (found != changed(segment, key=2, **settings)).any()


def test_a_shift_moves_and_repeats_the_edge():
    segment = still_segment()
    still, moved = segment.images["front"], changed(segment, shift=2)
    padded = np.pad(still[:, 0], [(0, 0), (2, 2), (2, 2), (0, 0)], mode="edge")
    offsets = [
        {
            (y, x)
            for y in range(5)
            for x in range(5)
            if (padded[b, y : y + 16, x : x + 16] == moved[b, 0]).all()
        }
        for b in range(6)
    ]
    assert all(offsets) and len(set.union(*offsets)) > 1


def test_colour_by_hand():
    grey = dataclasses.replace(
        make_segment(steps=1, batch=1), images={"front": np.full((1, 1, 16, 16, 3), 100, np.uint8)}
    )
    brighter = changed(grey, brightness=0.2)
    assert len(np.unique(brighter)) == 1 and abs(int(brighter.flat[0]) - 100) <= 51
    np.testing.assert_array_equal(
        changed(grey, saturation=0.9, hue=0.4, contrast=0.9), 100
    )  # grey has no colour and no contrast


def test_nothing_changes_by_default():
    segment = still_segment()
    np.testing.assert_array_equal(changed(segment), segment.images["front"])
