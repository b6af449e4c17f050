import numpy as np
import pytest

from qt_jax.envs import collectors, gl, metaworld
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.errors import UserError


def make_config(**overrides):
    config = metaworld.get_config()
    config.update(overrides)
    return config


STATE_ONLY = dict(cameras=(), state="full")


def test_every_task_has_a_simulator_and_an_expert():
    env_dict = gl.import_simulator("metaworld.env_dict")

    assert set(tasks.MT50) == {name.removesuffix("-v3") for name in env_dict.ALL_V3_ENVIRONMENTS}
    assert set(tasks.MT10) <= set(tasks.MT50)
    for task in tasks.MT50:
        metaworld.Expert(task)


def test_suites_and_unknown_tasks():
    assert metaworld.suite_tasks(("mt10",)) == tasks.MT10 and len(metaworld.suite_tasks(("mt50",))) == 50
    assert metaworld.suite_tasks(("reach-v3", "push")) == ("reach", "push")
    with pytest.raises(UserError, match=r"unknown tasks \['fly'\]"):
        metaworld.suite_tasks(("fly",))


def test_a_seed_fixes_the_start_whatever_ran_before():
    env = metaworld.Environment("push", make_config(**STATE_ONLY))
    first, _ = env.reset(seed=5)
    for _ in range(7):
        env.step(np.asarray([0.5, 1.0, -0.5, 1.0]))
    again, _ = env.reset(seed=5)
    other, _ = env.reset(seed=6)
    np.testing.assert_array_equal(first["state"], again["state"])
    assert np.abs(first["state"] - other["state"]).max() > 1e-3


def test_success_terminates_and_the_limit_truncates():
    config = make_config(max_decisions=6, **STATE_ONLY)
    env = metaworld.Environment("reach", config)
    env.reset(seed=0)
    outcomes = [env.step(np.zeros(4))[1:4] for _ in range(6)]
    assert outcomes == [(0.0, False, False)] * 5 + [(0.0, False, True)]
    env = metaworld.Environment("reach", make_config(**STATE_ONLY))
    env.reset(seed=0)
    expert, done = metaworld.Expert("reach"), False
    while not done:
        _, reward, terminated, truncated, _ = env.step(expert(env.simulator_state))
        done = terminated or truncated
    assert terminated and not truncated and reward == 1.0


def test_a_finer_action_repeat_keeps_the_time_limit():
    config = make_config(max_decisions=30, **STATE_ONLY)
    assert metaworld.Environment("pick-place", config).max_decisions == 50
    assert metaworld.decision_dt(config, "pick-place") == pytest.approx(3 * 0.0125)


def test_proprioception_hides_objects_and_goal():
    """Beside the image the network gets hand and gripper alone: the same for two different goals."""
    env = metaworld.Environment("push", make_config(cameras=()))
    observations = [env.reset(seed=seed)[0]["state"] for seed in (1, 2)]
    assert observations[0].shape == (4,)
    np.testing.assert_allclose(*observations, atol=1e-6)


@pytest.mark.parametrize("task", ["reach", "faucet-open", "drawer-open"])
def test_images_look_like_a_scene(task):
    """A garbage frame is flat, or noise, or changes between two renders of one state."""
    env = metaworld.Environment(task, make_config(image_size=96))
    image = env.reset(seed=3)[0]["images"]["front"]
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    assert 60 < image.mean() < 190 and image.std() > 20
    neighbours = np.abs(np.diff(image.astype(float), axis=0)).mean()
    assert neighbours < 15  # noise would give about 85
    red = (image[..., 0].astype(int) - image[..., 1:].max(-1) > 60).mean()
    assert 0.02 < red < 0.3  # the robot's arm
    np.testing.assert_array_equal(image, env.render_frame(96))
    env.step(np.asarray([1.0, 1.0, 1.0, 0.0]))
    assert (env.render_frame(96) != image).any()
    env.close()


def test_shared_scenes_start_alike_and_no_marker_tells_them_apart():
    for pair in tasks.SHARED_SCENES:
        images = []
        for task in pair:
            env = metaworld.Environment(task, make_config())
            images.append(env.reset(seed=9)[0]["images"]["front"])
            env.close()
        np.testing.assert_array_equal(*images)


def test_a_replayed_state_is_the_same_in_all_tasks_of_its_scene():
    """To a success and beyond it, which would end an episode.

    Then each task's own episode goes on from there.
    """
    for pair in tasks.SHARED_SCENES:
        for done in pair:
            env = metaworld.Environment(done, make_config(max_decisions=60))
            expert, seen, actions, terminated = metaworld.Expert(done), [env.reset(seed=9)[0]], [], False
            while not terminated:
                actions.append(expert(env.simulator_state))
                observation, _, terminated, truncated, _ = env.step(actions[-1])
                seen.append(observation)
                assert not truncated
            env.close()
            actions = np.stack(actions * 2)[: len(actions) + 2]
            restored = {}
            for task in pair:
                env = metaworld.Environment(task, make_config(max_decisions=2))
                (before,), success = env.replay(9, actions[:5])
                np.testing.assert_array_equal(before["images"]["front"], seen[5]["images"]["front"])
                np.testing.assert_array_equal(before["state"], seen[5]["state"])
                assert not success
                restored[task], success = env.replay(9, actions, keep=3)
                assert (
                    success == (task == done)
                    and len(restored[task]) == 3
                    and len(env.replay(9, actions[:1], keep=3)[0]) == 2
                )
                env.replay(9, actions[:3])
                assert [env.step(action)[1:4] for action in actions[3:5]] == [
                    (0.0, False, False),
                    (0.0, False, True),
                ]
                env.close()
            for one, other in zip(*restored.values()):
                np.testing.assert_array_equal(one["images"]["front"], other["images"]["front"])
                np.testing.assert_array_equal(one["state"], other["state"])


def test_collection_and_evaluation_start_from_different_conditions():
    seeds = {
        split: {
            collectors.environment_seed(collectors.episode_seed(split, 0, place, i))
            for place in range(10)
            for i in range(300)
        }
        for split in collectors.SPLITS
    }
    assert not seeds["collect"] & seeds["evaluate"]


def test_no_gl_backend_is_one_line_with_the_remedy(monkeypatch):
    gl.find_backend.cache_clear()
    monkeypatch.delenv("QT_JAX_GL_PROBED", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "no-such-backend")
    try:
        with pytest.raises(UserError, match="apt-get install libosmesa6") as error:
            gl.require_backend()
        assert "no-such-backend" in str(error.value) and "\n" not in str(error.value)
    finally:
        gl.find_backend.cache_clear()


def test_same_plan_same_episode_and_the_mix_is_exact():
    config = make_config(**STATE_ONLY)
    import ml_collections

    whole = ml_collections.ConfigDict({"env": config, "collect": collectors.get_config()})
    whole.collect.demonstrations, whole.collect.autonomous = 1, 4
    whole.collect.mix = {"noise": 0.25, "stuck_gripper": 0.25, "perception_bias": 0.25, "wrong_task": 0.25}
    (plans,) = collectors.plan_episodes(whole.collect, ("reach",))
    assert sorted(plan.collector for plan in plans) == sorted(["demonstration", *whole.collect.mix])
    together = collectors.collect_episodes(whole, plans)
    for plan, one in zip(plans, together):
        (alone,) = collectors.collect_episodes(whole, [plan])
        np.testing.assert_array_equal(one.actions, alone.actions)
        np.testing.assert_array_equal(one.state, alone.state)
        assert one.success == bool(one.rewards[-1]) and (one.success or plan.collector != "demonstration")
        assert one.dt == pytest.approx(5 * 0.0125)


def test_unknown_collector_is_named():
    config = collectors.get_config()
    config.mix = {"magic": 1.0}
    with pytest.raises(UserError, match="magic"):
        collectors.plan_episodes(config, ("reach",))
