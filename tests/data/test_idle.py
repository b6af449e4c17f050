"""Which steps stand still."""

import numpy as np
import pytest

from qt_jax.data.idle import Idle
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec

ACTION = ActionSpec(("x", "gripper"), (-1.0, 0.0), (1.0, 1.0), (8, 2))


def test_a_delta_near_zero_is_idle_unless_the_gripper_moves_or_the_episode_ends():
    x = [0.0, 0.02, 0.5, 0.01, 0.0, 0.0]
    gripper = [1, 1, 1, 0, 0, 0]
    found = Idle.read("delta:0.01").steps(ACTION, np.asarray([x, gripper], np.float32).T)
    np.testing.assert_array_equal(found, [True, True, False, False, True, False])


def test_an_absolute_action_is_idle_where_it_is_that_of_the_step_before():
    x = [0.5, 0.5, 0.51, 0.6, 0.6, 0.6]
    gripper = [1, 1, 1, 1, 0, 0]
    found = Idle.read("absolute:0.01").steps(ACTION, np.asarray([x, gripper], np.float32).T)
    np.testing.assert_array_equal(found, [False, True, True, False, False, False])


@pytest.mark.parametrize("text", ["delta", "delta:", "delta:2", "delta:0", "delta:nan", "still:0.1"])
def test_other_texts_are_refused_by_name(text):
    with pytest.raises(UserError, match=f"config.data.idle is '{text}'; give 'delta:0.01'"):
        Idle.read(text)
