"""Chunks of three actions of which two are executed: a window's frames lie two steps apart.

With past actions, which must not tell what the next decision is to find.
"""

import dataclasses

import jax
import numpy as np
import pytest

from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from tests.models.test_q_transformer import (
    ACTION,
    STEPS,
    WINDOW,
    crop,
    make_network,
    make_params,
    make_segment,
)
from tests.policy.test_jax_policy import make_policy

CHUNK, EXECUTE = 3, 2


@pytest.fixture(scope="module")
def setup():
    network = make_network(return_conditioned=True, chunk=CHUNK, execute=EXECUTE)
    params = make_params(network)
    score = jax.jit(network.score)
    return network, params, lambda segment: np.asarray(score(params, segment)), make_segment(chunk=CHUNK)


def test_a_frame_reaches_every_second_step_of_its_window(setup):
    _, _, score, segment = setup
    state = segment.state.copy()
    state[:, 2] += 1.0
    changed = np.abs(score(segment) - score(dataclasses.replace(segment, state=state))).max((0, 2, 3, 4))
    np.testing.assert_array_equal(np.flatnonzero(changed > 1e-5), [2, 4, 6])


@pytest.mark.parametrize("dim", [0, 5, 6])
def test_the_next_decisions_see_of_a_chunk_what_was_executed(setup, dim):
    """Its first two actions, of three dims each: the sixth dim is the last of them."""
    _, _, score, segment = setup
    tokens = segment.tokens.copy()
    tokens[:, 2, dim] = 1 - tokens[:, 2, dim]
    changed = (
        np.abs(score(segment) - score(dataclasses.replace(segment, tokens=tokens))).max((0, 3, 4)) > 1e-5
    )
    expected = np.zeros((STEPS, CHUNK * ACTION.dims), bool)
    expected[2, dim + 1 :] = True
    expected[[4, 6]] = dim < EXECUTE * ACTION.dims
    np.testing.assert_array_equal(changed, expected)


def test_q_is_the_same_for_every_cut(setup):
    _, _, score, segment = setup
    context, whole = (WINDOW - 1) * EXECUTE, score(segment)
    cut = score(crop(segment, 3, STEPS))
    np.testing.assert_allclose(cut[:, context:], whole[:, 3 + context :], atol=2e-5)


def test_a_robot_that_executes_two_actions_decides_as_the_teacher_forced_pass(setup):
    """It sees every second frame, over more decisions than the window has."""
    network, params, score, _ = setup
    segment = make_segment(batch=1, chunk=CHUNK)
    sessions = Sessions(make_policy(network, params, capacity=1), None)
    decisions = []
    for t in range(0, STEPS, EXECUTE):
        seen = {"front": segment.images["front"][0, t]}, segment.state[0, t], segment.instruction[0]
        decisions += sessions.act([Request(0, *seen)])
    tokens = segment.tokens.copy()
    tokens[0, ::EXECUTE] = [decision.tokens for decision in decisions]
    forced = score(dataclasses.replace(segment, tokens=tokens))[0, ::EXECUTE, ..., 0]
    present = ACTION.repeated(CHUNK).bin_mask()
    for decision, expected in zip(decisions, forced, strict=True):
        np.testing.assert_allclose(decision.scores[present], expected[present], atol=2e-4)
        centres = (decision.tokens + 0.5) * 2 / ([8, 8, 2] * CHUNK) - 1
        np.testing.assert_allclose(decision.actions, centres.reshape(CHUNK, 3)[:EXECUTE], atol=1e-6)
