import numpy as np
import pytest

from qt_jax.envs import behaviours, collectors, ogbench_scene
from tests import tiny


def make_config(**overrides):
    config = ogbench_scene.get_config()
    config.update(overrides)
    return config


def played(task, seed=3, expert_of=None):
    """Returns the decisions until the end of an expert's episode, and whether the task was done."""
    env = ogbench_scene.Environment(task, make_config())
    env.reset(seed=seed)
    expert, done, truncated, count = ogbench_scene.Expert(expert_of or task), False, False, 0
    while not (done or truncated):
        _, reward, done, truncated, _ = env.step(expert(env.simulator_state))
        assert reward == float(done)
        count += 1
    env.close()
    return count, done


@pytest.mark.parametrize("task", ogbench_scene.TASKS)
def test_each_expert_does_its_task_and_not_its_neighbours(task):
    (other,) = (set(pair) - {task} for pair in ogbench_scene.SHARED_SCENES if task in pair)
    count, done = played(task)
    assert done and count > 3
    assert not played(task, expert_of=other.pop())[1]


def test_all_tasks_start_alike_whatever_ran_before():
    starts = []
    for task in ogbench_scene.TASKS:
        env = ogbench_scene.Environment(task, make_config())
        starts.append(env.reset(seed=7)[0]["state"])
        for _ in range(5):
            env.step(np.asarray([0.0, 1.0, -1.0, 0.5, 1.0]))
        env.close()
    assert starts[0].shape == (40,)
    np.testing.assert_array_equal(starts, [starts[0]] * len(starts))
    assert np.abs(env.reset(seed=8)[0]["state"] - starts[0]).max() > 1e-3


def test_experts_get_the_goals_that_the_scene_itself_aims_at():
    """OGBench's own targets of drawer, window and button, for the goals that ours have."""
    env = ogbench_scene.Environment("drawer-open", make_config())
    env.reset(seed=1)
    scene = env._simulator
    scene.model.site("drawer_handle_center_target").pos[1] = ogbench_scene.DRAWER_SLIDE["drawer-open"]
    scene.model.site("window_handle_center_target").pos[0] = ogbench_scene.WINDOW_SLIDE["window-close"]
    scene._target_button, scene._target_button_states = 1, np.asarray([0, 0])
    info = scene.step(np.zeros(5))[-1]
    for task in ("drawer-open", "window-close", "left-button"):
        for key, value in ogbench_scene.goal(task, info).items():
            np.testing.assert_allclose(value, info[key], atol=1e-3, err_msg=key)
    env.close()


def test_collection_fails_in_every_way_and_is_repeatable():
    config = tiny.get_config()
    config.env = make_config(max_decisions=25)
    plans = [
        collectors.EpisodePlan("drawer-close", kind, index)
        for index, kind in enumerate(("demonstration", "human", *behaviours.FAILING, "wander"))
    ]
    episodes, again = (collectors.collect_episodes(config, plans) for _ in range(2))
    for one, other in zip(episodes, again):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.state, other.state)
    assert episodes[0].success and episodes[1].success and not all(episode.success for episode in episodes)
    assert {episode.instruction for episode in episodes} <= set(ogbench_scene.INSTRUCTIONS["drawer-close"])
    assert all(episode.dt == 0.05 and episode.actions.shape[1] == 5 for episode in episodes)
