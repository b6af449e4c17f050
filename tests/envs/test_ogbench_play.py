"""Play and single tasks against OGBench's own environments, policies and relabelling."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

from experiments import ogbench
from qt_jax.envs import ogbench_goals, ogbench_oracles, ogbench_play, ogbench_simulators, suites
from qt_jax.envs.ogbench_goals import SCENES
from qt_jax.errors import UserError
from tests.conftest import ROOT

relabel = pytest.importorskip("ogbench.relabel_utils")


def mostly_slow(names, *quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", SCENES)
def test_goals_are_ogbenchs(name):
    infos = ogbench_simulators.make(SCENES[name], mode="task").task_infos
    for number, info in enumerate(infos, 1):
        goal, wanted = ogbench_goals.GOALS[f"{name}-task{number}"], info.get("goal", info)
        cubes = wanted.get("block_xyzs", wanted.get("goal_xyzs", ()))
        assert [list(cube) for cube in cubes] == [list(cube) for cube in goal.cubes]
        assert list(wanted.get("button_states", wanted.get("goal_button_states", ()))) == list(goal.buttons)
        slides = [wanted[f"{slide}_pos"] for slide in ("drawer", "window") if f"{slide}_pos" in wanted]
        assert slides == list(goal.slides)
        parts = len(goal.cubes), len(goal.buttons), bool(goal.slides)
        assert parts == (SCENES[name].cubes, SCENES[name].buttons, SCENES[name].slides)
    registered = gymnasium.spec(f"{name}-singletask-v0")
    assert registered.max_episode_steps == SCENES[name].limit and number == 5


def generated(name, seed, steps):
    """What OGBench's script does, said anew: observations and actions of an episode, and its info's qpos."""
    env = gymnasium.make(
        f"{name}-v0", terminate_at_goal=False, mode="data_collection", max_episode_steps=steps
    )
    np.random.seed(seed)
    observation, info = env.reset(seed=seed)
    stacking = {"cube-single": lambda: 0.0, "cube-double": lambda: np.random.uniform(0.0, 0.25)}
    p_stack = stacking.get(name, lambda: 0.5)()

    def oracle(kind):
        module = __import__(f"ogbench.manipspace.oracles.plan.{kind}_plan", fromlist=["x"])
        settings = {"gripper_always_closed": True} if "puzzle" in name else {}
        return getattr(module, f"{kind.title()}PlanOracle")(
            env=env, noise=0.1, noise_smoothing=0.5, **settings
        )

    agent = oracle(info["privileged/target_task"])
    agent.reset(observation, info)
    seen, done = [], False
    while not done:
        assert np.random.rand() >= 0.0
        action = np.clip(np.array(agent.select_action(observation, info)), -1, 1)
        following, _, terminated, done, info = env.step(action)
        assert not terminated
        seen.append((observation, action))
        if agent.done:
            told = env.unwrapped.set_new_target(p_stack=p_stack)
            agent = oracle(told[1]["privileged/target_task"])
            agent.reset(*told)
        observation = following
    observations, actions = map(np.asarray, zip(*seen))
    return observations.astype(np.float32), actions.astype(np.float32)


@pytest.mark.parametrize("name", mostly_slow(SCENES, "scene"))
def test_play_is_what_ogbenchs_script_makes_of_the_same_seed(name, monkeypatch):
    steps = 250
    monkeypatch.setattr(ogbench_oracles, "STEPS", steps)
    ogbench_oracles.episode(name, 3)  # another one before
    before = np.random.get_state()[1].copy()
    states, actions = ogbench_oracles.episode(name, 4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    observations, theirs = generated(name, 4, steps + 1)
    np.testing.assert_array_equal(states, observations)
    np.testing.assert_array_equal(actions, theirs[:-1])
    assert states.shape == (steps + 1, SCENES[name].state_dim) and np.abs(actions).max() == 1


def test_play_whose_cube_falls_out_of_sight_is_thrown_away():
    """As OGBench has it: the cube may lie left of -0.3 in the drawer alone, between 6 and 8 cm high."""
    for place, kept in {
        (0, 0, 0.02): 1,
        (0, -0.31, 0.07): 1,
        (0, -0.31, 0.02): 0,
        (0, 0.29, 0.07): 0,
    }.items():
        assert ogbench_oracles._is_in_sight(np.asarray([[0.4, 0.0, 0.02], place])) == bool(kept)


@pytest.mark.parametrize("name", mostly_slow(SCENES, "scene"))
def test_rewards_are_those_of_ogbenchs_environment_and_of_its_relabelling(name):
    """On an episode that ends in a state where all subgoals are met, since it is put there."""
    task = f"{name}-task1"
    env = ogbench_play.Environment(task, ogbench_play.get_config(name))
    observation, _ = env.reset(seed=5)
    simulator, rng = env._simulator, np.random.default_rng(0)
    states, earned, infos, ended = [observation["state"]], [], [env.simulator_state], False
    for step in range(40):
        if step == 25:  # as near to the goal as OGBench asks, of all things at once
            goal = ogbench_goals.GOALS[task]
            for number, cube in enumerate(goal.cubes):
                simulator.data.joint(f"object_joint_{number}").qpos[:3] = np.add(cube, (0.02, 0.02, 0.0))
            for slide, place in zip(("drawer", "window"), goal.slides):
                simulator.data.joint(f"{slide}_slide").qpos[0] = place * 0.9
            simulator.set_state(simulator.data.qpos, simulator.data.qvel, *(
                [np.asarray(goal.buttons)] if goal.buttons else []
            ))  # fmt: skip
        action = np.append(rng.uniform(-1, 1, 4), 1.0)
        observation, reward, terminated, truncated, info = env.step(action)
        assert info == {"success": terminated} and not truncated
        states.append(observation["state"])
        earned.append(reward)
        infos.append(env.simulator_state)
        ended = ended or terminated
        if terminated:
            break
    assert ended and step == 26, step  # met after action 25, which the next one comes to see
    met, solved = ogbench_goals.rewards(task, np.stack(states))
    keep = np.arange(len(earned)) != 25  # before that one the state was changed by hand
    np.testing.assert_array_equal(np.asarray(earned)[keep], met[:-1][keep])
    assert met.min() < 0 and solved.tolist() == [False] * 26 + [True, bool(solved[-1])]

    dataset = {"qpos": np.asarray([info["qpos"] for info in infos], np.float32)}
    if "button_states" in infos[0]:
        dataset["button_states"] = np.asarray([info["button_states"] for info in infos])
    made = gymnasium.make(f"{name}-singletask-task1-v0")
    relabel.relabel_dataset(f"{name}-singletask-task1-v0", made, dataset)
    np.testing.assert_array_equal(dataset["rewards"], met)
    np.testing.assert_array_equal(dataset["masks"], 1.0 - solved)
    env.close()


def test_a_seed_repeats_an_episode_whatever_ran_before():
    config = ogbench_play.get_config("cube-single")
    starts = []
    for task in ("cube-single-task1", "cube-single-task2", "cube-single-task1"):
        env = ogbench_play.Environment(task, config)
        starts.append([env.reset(seed=7)[0]["state"], env.step(np.full(5, 0.5))[0]["state"]])
        env.close()
    np.testing.assert_array_equal(starts[0], starts[2])
    assert np.abs(starts[0][0] - starts[1][0]).max() > 0.1


def test_a_decision_is_held_and_ends_with_the_control_period_that_ends_the_task():
    task, action, ends = "cube-single-task1", np.full(5, 0.3), []
    for repeat in (1, 5):
        config = ogbench_play.get_config("cube-single")
        config.action_repeat, config.max_decisions = repeat, 200 // repeat
        env = ogbench_play.Environment(task, config)
        assert env.max_decisions == 200 // repeat
        assert ogbench_play.decision_dt(config, task) == pytest.approx(0.05 * repeat)
        env.reset(seed=7)
        steps = [env.step(action) for _ in range(10 // repeat)]
        assert {step[1] for step in steps} == {-1.0}
        cube = env._simulator.data.joint("object_joint_0").qpos
        cube[:3] = ogbench_goals.GOALS[task].cubes[0]
        env._simulator.set_state(env._simulator.data.qpos, env._simulator.data.qvel)
        periods = env._simulator.data.time
        _, reward, terminated, truncated, _ = env.step(action)
        if repeat == 1:  # as in OGBench the next one comes to see it
            _, _, terminated, truncated, _ = env.step(action)
        assert terminated and not truncated, repeat
        ends.append((steps[-1][0]["state"], env._simulator.data.time - periods, reward))
        env.close()
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == pytest.approx(ends[1][1])
    assert [end[2] for end in ends] == [0.0, 0.0]


def test_one_network_of_five_tasks_or_one_a_task():
    for arguments, tasks in {"scene-play": 5, "scene-play,iql,task3,2": 1}.items():
        config = ogbench.get_config(arguments)
        spec = suites.dataset_spec(config)
        assert len(spec.pieces.instructions) == tasks and spec.observation.state_dim == 40
        assert config.value_range == (pytest.approx(-5 / (1 - 0.99**5)), 0.0)
        assert spec.expected_dt == {"play": 0.05} and spec.pieces.repeat == config.env.action_repeat == 5
    assert "scene-task3" in spec.pieces.instructions and config.seed == 2


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("tasks", ("scene", "cube-single-task1"), "is of ['cube-single', 'scene']; expected tasks of one"),
        ("tasks", ("scene-task6",), "unknown tasks ['scene-task6']"),
        ("cameras", ("front",), "cameras=('front',); OGBench's play has states alone"),
        ("state", "none", "config.env.state is 'none'"),
    ],
)
def test_settings_that_play_does_not_have(key, value, message):
    config = ogbench_play.get_config()
    config[key] = value
    with pytest.raises(UserError) as caught:
        ogbench_play.observation_spec(config)
    assert message in str(caught.value)


@pytest.mark.slow
def test_a_killed_collection_goes_on_and_makes_the_same_data(tmp_path):
    def collect(folder):
        settings = {"data.path": tmp_path / folder, "collect.transitions": 20000, "collect.workers": 2}
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        command = [
            sys.executable,
            "-m",
            "qt_jax",
            "collect",
            "--config=experiments/ogbench.py:cube-single-play",
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *flags], cwd=ROOT, start_new_session=True, **pipes)

    first = collect("killed")
    while len(list(tmp_path.glob("killed/collecting/*/*.pickle"))) < 2:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for folder in ("killed", "whole"):
        out, err = (process := collect(folder)).communicate(timeout=600)
        assert process.returncode == 0, err
        assert ("goes on after" in out) == (folder == "killed") and "22 episodes" in out
        assert not (tmp_path / folder / "collecting").exists()

    import tensorflow_datasets as tfds  # reads without TensorFlow

    splits = []
    for folder in ("killed", "whole"):
        builder = tfds.builder_from_directory(str(tmp_path / folder / "1.0.0"))
        lengths = {name: split.num_examples for name, split in builder.info.splits.items()}
        assert lengths == {"train": 20, "validation": 2}
        splits.append([list(builder.as_data_source(split)) for split in lengths])
    for one, other in zip(*splits):
        for episode, again in zip(one, other, strict=True):
            assert episode["episode_id"] == again["episode_id"]
            for step, same in zip(episode["steps"], again["steps"], strict=True):
                np.testing.assert_array_equal(step["observation"]["state"], same["observation"]["state"])
                np.testing.assert_array_equal(step["action"], same["action"])
    assert json.loads((tmp_path / "whole/1.0.0/metadata.json").read_text())["action"]["names"][0] == "x"
