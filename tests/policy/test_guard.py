"""Safety limits against numbers worked out by hand, and what a file of limits may not hold."""

import dataclasses
import json

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy.guard import Guard
from qt_jax.safety import SafetyLimits
from qt_jax.specs import ActionSpec

ROBOT = ActionSpec(("x", "y", "grip"), (-1.0, -1.0, 0.0), (1.0, 1.0, 1.0), (8, 8, 2))
DT = 0.1
STOPS = {"x": {"kind": "delta", "stop": 0}, "y": {"kind": "absolute", "stop": "last"}, "grip": {"stop": 1}}


def guard(dims=None, state=(0, 0, 0, 0), commands=1, **more) -> Guard:
    limits = SafetyLimits.from_json({"dims": dims or {}} | more)
    limits.check(ROBOT, 4)
    made = Guard(limits, ROBOT.names, DT, commands)
    made.see(np.asarray(state, np.float32))
    return made


def executed(made: Guard, *actions) -> list:
    """Returns dim 0 and 1 of what is executed of the actions, one after the other."""
    return [made.limit(np.asarray([*action, 1], np.float32))[0][:2].tolist() for action in actions]


def altered(found) -> list:
    return [(one.limit, one.what) for one in found]


def test_an_action_inside_the_limits_keeps_its_bits():
    made = guard(
        {"x": {"kind": "delta", "velocity": 2, "box": [-1, 1], "entry": 0, "low": -0.3, "high": 0.1}}
    )
    action = np.asarray([0.1, -0.7, 1], np.float32)  # 0.1 in float32 is above 0.1
    found, limited = made.limit(action)
    np.testing.assert_array_equal(found, action)
    assert limited == []


def test_bounds_of_a_dim():
    made = guard({"x": {"low": -0.25, "high": 0.5}})
    assert executed(made, (0.75, 0.9), (-1, 0)) == [[0.5, pytest.approx(0.9)], [-0.25, 0]]


def test_a_delta_may_not_move_further_than_its_change_and_its_velocity():
    """In the state's units: a delta of 1 moves it by 0.5, so 0.2 a step are a delta of 0.4."""
    made = guard({"x": {"kind": "delta", "unit": 0.5, "change": 0.2}, "y": {"kind": "delta", "velocity": 3}})
    found, limited = made.limit(np.asarray([1, -0.5, 1], np.float32))
    np.testing.assert_allclose(found, [0.4, -0.3, 1], atol=1e-7)
    assert altered(limited) == [("change", "x"), ("velocity", "y")]
    assert limited[0].before == 1 and limited[0].after == pytest.approx(0.4)


def test_an_absolute_dim_starts_where_the_robot_is_and_follows_what_was_sent():
    made = guard({"y": {"kind": "absolute", "entry": 1, "velocity": 2}}, state=(0, 0.5, 0, 0))
    found = executed(made, (0, 1), (0, 1), (0, -1))
    np.testing.assert_allclose([y for _, y in found], [0.7, 0.9, 0.7], atol=1e-6)
    made.see(np.asarray([0, 0.1, 0, 0]))  # the arm lags behind
    np.testing.assert_allclose(executed(made, (0, 1))[0][1], 0.9, atol=1e-6)
    made.begin()
    made.see(np.asarray([0, -0.5, 0, 0]))
    np.testing.assert_allclose(executed(made, (0, 1))[0][1], -0.3, atol=1e-6)


def test_a_box_holds_positions_whatever_the_action_is():
    made = guard(
        {
            "x": {"kind": "delta", "entry": 0, "box": [-1, 1]},
            "y": {"kind": "absolute", "entry": 1, "box": [-0.5, 0.5]},
        },
        state=(0.5, 0, 0, 0),
    )
    found = executed(made, (0.4, 0.9), (0.4, -0.9), (0.4, 0.1))  # a chunk: the position goes on with it
    np.testing.assert_allclose(found, [[0.4, 0.5], [0.1, -0.5], [0, 0.1]], atol=1e-6)


@pytest.mark.parametrize("unit", [1, -1])
def test_a_robot_outside_its_box_may_go_back_and_is_not_made_to(unit):
    made = guard({"x": {"kind": "delta", "entry": 0, "unit": unit, "box": [-1, 1]}}, state=(1.5, 0, 0, 0))
    assert executed(made, (0.3 * unit, 0))[0][0] == 0
    assert executed(made, (-0.25 * unit, 0))[0][0] == -0.25 * unit


def test_a_robot_outside_its_box_goes_back_no_faster_than_it_may():
    made = guard({"y": {"kind": "absolute", "entry": 1, "box": [-0.5, 0.5], "change": 0.1}}, (0, 0.9, 0, 0))
    np.testing.assert_allclose([y for _, y in executed(made, (0, 0), (0, 0.9))], [0.8, 0.7], atol=1e-6)


def test_commands_between_control_steps_have_their_share_of_the_movement():
    dims = {"x": {"kind": "delta", "change": 0.2}, "y": {"kind": "absolute", "entry": 1, "velocity": 2}}
    found = executed(guard(dims, commands=4), (1, 1), (1, 1))
    np.testing.assert_allclose(found, [[0.05, 0.05], [0.05, 0.1]], atol=1e-6)


def test_hold_repeats_the_last_action_and_then_stops():
    made = guard(STOPS, on_stale="hold", stale_ms=50, hold_ms=200)
    made.limit(np.asarray([0.5, 0.25, 0], np.float32))
    found = [made.fall_back("stale") for _ in range(3)]
    assert [action.tolist() for action, _ in found] == [[0.5, 0.25, 0], [0.5, 0.25, 0], [0, 0.25, 1]]
    assert [altered(limited) for _, limited in found] == [[("stale", "hold")]] * 2 + [[("stale", "stop")]]
    made.limit(np.asarray([0.5, 0.25, 0], np.float32))  # counts anew
    assert altered(made.fall_back("stale")[1]) == [("stale", "hold")]


def test_a_fallback_is_limited_too():
    dims = STOPS | {"grip": {"kind": "absolute", "entry": 2, "change": 0.25, "stop": 1}}
    made = guard(dims, on_refused="stop")
    made.limit(np.asarray([0, 0, 0], np.float32))
    action, limited = made.fall_back("refused")
    assert action.tolist() == [0, 0, 0.25] and altered(limited) == [("refused", "stop"), ("change", "grip")]


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "The limits limit nothing"),
        ([], "keys among .*; found '\\[\\]'"),
        ({"dim": {}}, "keys among .*'dims'.*; found \\['dim'\\]"),
        (
            {"dims": {"x": {"speed": 1}}},
            "Limits of 'x': They are an object .*'velocity'.*found \\['speed'\\]",
        ),
        ({"dims": {"z": {"low": 0}}}, r"have dims \['z'\], the action has \['x', 'y', 'grip'\]"),
        ({"dims": {"x": {"low": 0.5, "high": 0.25}}}, "'x' leave it no action: from 0.5 to 0.25"),
        ({"dims": {"x": {"low": 2}}}, "'x' leave it no action: from 2 to 1, the policy's own bounds are -1"),
        ({"dims": {"x": {"low": "0"}}}, "'x': low is '0'; give a finite number"),
        ({"dims": {"x": {"velocity": float("inf"), "kind": "delta"}}}, "velocity is inf"),
        ({"dims": {"x": {"velocity": 0, "kind": "delta"}}}, "velocity is 0; give a number above 0"),
        ({"dims": {"x": {"velocity": 1}}}, "'x': velocity is of positions; give kind, 'absolute' or 'delta'"),
        ({"dims": {"x": {"kind": "relative"}}}, "kind is 'relative'; give one of .'absolute', 'delta'"),
        ({"dims": {"x": {"kind": "delta", "box": [0, 1]}}}, "box of a delta needs its position; give entry"),
        ({"dims": {"x": {"kind": "absolute", "change": 1}}}, "change and velocity of an absolute dim need"),
        ({"dims": {"x": {"kind": "delta", "box": [1, 0], "entry": 0}}}, r"box is \[1, 0\]; give \[least"),
        ({"dims": {"x": {"kind": "delta", "box": 1, "entry": 0}}}, r"box is 1; give \[least"),
        ({"dims": {"x": {"kind": "absolute", "box": [2, 3]}}}, "leave it no action: from 2 to 1"),
        ({"dims": {"x": {"kind": "delta", "entry": 4}}}, "'x': entry is 4, the state has 4"),
        ({"dims": {"x": {"entry": -1}}}, "entry is -1; give a whole number"),
        ({"dims": {"x": {"kind": "absolute", "unit": 2}}}, "unit is 2; it is of deltas alone"),
        ({"dims": {"x": {"kind": "delta", "unit": None}}}, "unit is None; it is of deltas alone"),
        ({"dims": {"x": {"kind": "delta", "stop": "last"}}}, "stop is 'last', which is of absolute dims"),
        ({"dims": STOPS | {"x": {}}, "on_refused": "stop"}, "'x': stop is missing"),
        ({"dims": STOPS | {"x": {"stop": 2}}, "on_refused": "stop"}, "stop is 2; give a number from -1 to 1"),
        ({"dims": STOPS, "on_refused": "wait"}, "on_refused is 'wait'; give one of .'hold', 'stop'"),
        ({"dims": STOPS, "on_stale": "stop"}, "stale_ms and on_stale go together"),
        ({"dims": STOPS, "late_ms": 50}, "late_ms and on_late go together"),
        ({"dims": STOPS, "on_refused": "hold"}, "hold_ms and 'hold' in on_stale, .* go together"),
        ({"dims": STOPS, "on_stale": "stop", "stale_ms": -1}, "stale_ms is -1; give milliseconds"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_in_one_line(given, words):
    with pytest.raises(UserError, match=words) as caught:
        SafetyLimits.from_json(given).check(ROBOT, 4)
    assert "\n" not in str(caught.value)


def test_a_file_of_limits(tmp_path):
    given = {"dims": STOPS, "on_late": "hold", "late_ms": 100, "hold_ms": 500}
    file = tmp_path / "limits.json"
    file.write_text(json.dumps(given))
    limits = SafetyLimits.read(file)
    assert limits.dims["y"].stop == "last" and limits.late_ms == 100
    assert SafetyLimits.from_json(json.loads(json.dumps(dataclasses.asdict(limits)))) == limits
    for text, words in (("{", "Expecting"), ("{}", "limit nothing")):
        file.write_text(text)
        with pytest.raises(UserError, match=f"limits={file} cannot be used .*{words}"):
            SafetyLimits.read(file)
    with pytest.raises(UserError, match="No such file"):
        SafetyLimits.read(tmp_path / "none.json")
