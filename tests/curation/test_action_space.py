"""Actions that are absolute, deltas or neither: what a conversion finds, and one turned into the other."""

import dataclasses
import json
import re

import h5py
import numpy as np
import pytest

from qt_jax.curation import dataset_plots
from qt_jax.curation.convert import action_space
from qt_jax.curation.convert.action_space import Movements, Space, Turn
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.episodes import Episode
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec
from tests.curation.opened import all_of, run, source

STEPS = 80
ARM, GRIPPER = Space("x", "absolute", 1), Space("grip", "", -1, why="neither absolute nor delta")


def arm(seed=0):
    """Joints that follow commands with a lag, and a gripper's command that no entry follows.

    Returns the absolute actions, and the state: force, joint, joint.
    """
    rng = np.random.default_rng(seed)
    command = np.cumsum(rng.normal(size=(STEPS, 2)), axis=0)
    joints = np.zeros((STEPS, 2))
    for step in range(STEPS - 1):
        joints[step + 1] = joints[step] + 0.8 * (command[step] - joints[step])
    actions = np.column_stack([command, rng.choice([-1, 1], STEPS)]).astype(np.float32)
    return actions, np.column_stack([rng.normal(size=STEPS), joints]).astype(np.float32)


def found(actions, state, entries=None, names=("x", "y", "grip"), state_names=("0", "1", "2")):
    movements = Movements(names, state_names, entries)
    movements.add(actions, state)
    return movements.spaces()


def test_what_actions_are():
    actions, state = arm()
    assert [(one.kind, one.entry) for one in found(actions, state)] == [
        ("absolute", 1),
        ("absolute", 2),
        ("", -1),
    ]
    deltas = actions.copy()
    deltas[:, :2] = (deltas[:, :2] - state[:, 1:]) / 0.05
    x, y, grip = found(deltas, state)
    assert (x.kind, x.entry, y.kind, y.entry, grip.kind) == ("delta", 1, "delta", 2, "")
    # The joints go 0.8 of the way, and 1 stands for 0.05.
    np.testing.assert_allclose([x.unit, y.unit], 0.8 * 0.05, rtol=1e-4)
    assert action_space.lines([x, ARM, grip]) == [
        "actions, absolute: x (state 1)",
        "actions, delta: x (1 moves state 1 by 0.04)",
        "actions, neither absolute nor delta: grip",
    ]


def test_the_entry_of_the_same_name_is_meant():
    actions, state = arm()
    names = ("x", "y", "grip")
    spaces = found(actions, state[:, [1, 2, 2]], names=names, state_names=("force", "x", "grip"))
    # y has no entry, and no other one is tried; the last joint is not what the gripper's command moves.
    assert [(one.kind, one.entry) for one in spaces] == [("", -1), ("", -1), ("", -1)]
    spaces = found(actions, state, names=names, state_names=("y", "x", "force"))
    assert [(one.kind, one.entry) for one in spaces] == [("absolute", 1), ("", -1), ("", -1)]


def test_too_little_to_tell():
    actions, state = arm()
    few, still = found(actions[:20], state[:20]), found(np.zeros_like(actions), state)
    none, marked = found(actions, state[:, :0], state_names=()), found(actions, state, ["1", "2", "-"])
    for spaces, why in (
        (few, "fewer than 50 steps to tell by"),
        (still, "always the same"),
        (none, "without an entry of the state by their names"),
        (marked[2:], "without an entry of the state by --action_state"),
    ):
        names = ", ".join(one.name for one in spaces)
        assert action_space.lines(spaces) == [f"actions, {why}: {names}"]


def test_turning_by_hand():
    actions, state = np.float32([[1.0, 5.0], [2.0, 6.0]]), np.float32([[0.5, 9.0], [1.0, 9.0]])
    delta = Turn("delta", (0, -1), 0.5)
    np.testing.assert_array_equal(delta.actions(actions, state), [[1.0, 5.0], [2.0, 6.0]])
    back = Turn("absolute", (0, -1), 0.5)
    np.testing.assert_array_equal(back.actions(delta.actions(actions, state), state), actions)
    assert back.described([ARM, GRIPPER]) == "x plus state 0; as it is: grip"
    assert action_space.after([ARM, GRIPPER], delta) == (Space("x", "delta", 0, 0.5), GRIPPER)


def test_what_is_turned():
    assert action_space.turn([ARM, GRIPPER], "delta", 0.0, False) == Turn("delta", (1, -1), 1.0)
    assert action_space.turn([ARM, GRIPPER], "absolute", 0.0, False) is None
    named = dataclasses.replace(GRIPPER, entry=0)
    assert action_space.turn([ARM, named], "delta", 2.0, True) == Turn("delta", (1, 0), 2.0)
    with pytest.raises(UserError, match="nothing tells what the actions are .*--action_state=0,1,-"):
        action_space.turn([GRIPPER], "delta", 0.0, False)
    small = Space("x", "delta", 1, 0.04)
    with pytest.raises(
        UserError, match="1 of action 'x' moves entry 1 of the state by 0.04; give --delta_unit"
    ):
        action_space.turn([small], "absolute", 0.0, False)
    assert action_space.turn([small], "absolute", 0.05, False) == Turn("absolute", (1,), 0.05)
    for wrong in (("0", "1"), ("0", "1", "3"), ("0", "1", "last")):
        with pytest.raises(
            UserError, match=f"--action_state is '{','.join(wrong)}'; expected for each of the 3"
        ):
            found(*arm(), entries=wrong)


def aloha(path, seed=0):
    """An episode as ALOHA writes it: `action` and `observations`, with absolute joints in `qpos`."""
    actions, state = arm(seed)
    with h5py.File(path, "w") as file:
        file["action"] = actions
        file["observations/effort"], file["observations/qpos"] = state[:, :1], state[:, 1:]
        file.attrs["sim"] = False
    return actions, state


def test_a_conversion_there_and_back(tmp_path):
    flags = {"success": "all", "instruction": "fold", "fps": 50.0}
    actions, state = aloha(tmp_path / "episode_0.hdf5")
    opened = source(tmp_path, "hdf5", **flags)
    assert [(one.kind, one.entry) for one in opened.spaces] == [("absolute", 1), ("absolute", 2), ("", -1)]
    np.testing.assert_array_equal(all_of(opened)[0].actions, actions[:-1])

    deltas = source(tmp_path, "hdf5", action_space="delta", **flags)
    (episode,) = all_of(deltas)
    expected = np.column_stack([actions[:, :2] - state[:, 1:], actions[:, 2]])
    np.testing.assert_array_equal(episode.actions, expected[:-1])
    np.testing.assert_allclose(deltas.action.high, expected.max(axis=0))
    assert deltas.notes == ("--action_space=delta: a0 less state 1, a1 less state 2; as it is: a2",)
    assert deltas.spaces[:2] == (Space("a0", "delta", 1), Space("a1", "delta", 2))
    assert source(tmp_path, "hdf5", action_space="absolute", **flags).notes == (
        "--action_space=absolute: they are so already",
    )

    with pytest.raises(UserError, match="--delta_unit is for --action_space"):
        source(tmp_path, "hdf5", delta_unit=0.1, **flags)

    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        file["action"][...] = expected
    (back,) = all_of(source(tmp_path, "hdf5", action_space="absolute", **flags))
    np.testing.assert_allclose(back.actions, actions[:-1], atol=1e-5)
    (chosen,) = all_of(
        source(tmp_path, "hdf5", action_space="absolute", action_state=("1", "-", "-"), **flags)
    )
    np.testing.assert_allclose(chosen.actions[:, 0], actions[:-1, 0], atol=1e-5)
    np.testing.assert_array_equal(chosen.actions[:, 1], expected[:-1, 1])


def test_the_dataset_says_what_its_actions_are(tmp_path):
    (tmp_path / "in").mkdir()
    for i in (0, 1):
        aloha(tmp_path / f"in/episode_{i}.hdf5", seed=i)
    flags = (
        "--success=all",
        "--instruction=fold",
        "--fps=50",
        "--action_space=delta",
        "--validation=episode_1",
    )
    result = run(f"--input={tmp_path}/in", "--format=hdf5", f"--output={tmp_path}/out", *flags)
    assert result.returncode == 0, result.stderr
    assert "--action_space=delta: a0 less state 1, a1 less state 2; as it is: a2" in result.stdout
    about = {
        name: json.loads((tmp_path / f"out/1.0.0/{name}.json").read_text())
        for name in ("metadata", "dataset_info")
    }
    assert about["metadata"]["action_space"] == {
        "a0": {"space": "delta", "state": 1, "unit": 1.0},
        "a1": {"space": "delta", "state": 2, "unit": 1.0},
    }
    splits = {
        split["name"]: sum(map(int, split["shardLengths"])) for split in about["dataset_info"]["splits"]
    }
    assert splits == {"train": 1, "validation": 1}


@pytest.mark.parametrize("kind, seen", [("absolute", [2.0, 4.0]), ("delta", [0.5, 1.0])])
def test_the_plot_shows_what_the_state_did(monkeypatch, kind, seen):
    state, actions = np.float32([[1.0], [2.0], [4.0]]), np.float32([[1.0], [2.0]])
    episode = Episode("e", "t", "c", "go", None, {}, state, actions, np.zeros(2), False, False, 0.1)
    drawn = []
    monkeypatch.setattr(dataset_plots, "figure_uri", drawn.append)
    spaces = {"x": {"space": kind, "state": 0, "unit": 2.0}}
    shown = Shown("failures", "", 0, episode, np.zeros(2))
    dataset_plots.curves(shown, ActionSpec(("x",), (0.0,), (5.0,), (8,)), spaces)
    axis = drawn[0].axes[0]
    lines = [line.get_ydata() for line in axis.lines if line.get_linestyle() == ":"]
    np.testing.assert_array_equal(lines, [seen])
    assert re.fullmatch(f"x: {kind}, state 0", axis.get_title())
