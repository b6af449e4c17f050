import pytest

from qt_jax.envs import suites
from qt_jax.errors import UserError
from tests import tiny


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_suite_is_whole(name):
    config = tiny.get_config()
    config.env.suite = name
    suite = suites.of(config)
    config.env = suite.get_config()
    assert config.env.suite == name
    names = suite.suite_tasks(config.env.tasks)
    assert set(names) <= set(suite.TASKS) == set(suite.INSTRUCTIONS)
    sentences = [sentence for group in suite.INSTRUCTIONS.values() for sentence in group]
    least = 1 if suite.PLAY else 2  # play is seen as a task under one sentence
    assert len(set(sentences)) == len(sentences) and all(
        len(group) >= least for group in suite.INSTRUCTIONS.values()
    )
    assert all(set(pair) <= set(suite.TASKS) for pair in suite.SHARED_SCENES)
    spec = suites.dataset_spec(config)
    assert set(spec.pieces.instructions if suite.PLAY else spec.expected_dt) == set(names)
    config.env.cameras = ()
    env = suite.Environment(names[0], config.env)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    if not suite.PLAY:
        action = suite.Expert(names[0])(suite.misperceived(env.simulator_state, [0.0, 0.01, 0.0]))
        assert env.action_space.contains(action)
    assert env.instruction == suite.INSTRUCTIONS[names[0]][0]
    env.close()


def test_unknown_names():
    config = tiny.get_config()
    config.env.suite = "atari"
    with pytest.raises(
        UserError, match="config.env.suite is 'atari'; expected one of metaworld, ogbench_scene, ogbench_play"
    ):
        suites.of(config)
    config.env.suite, config.env.tasks = "ogbench_scene", ("fly",)
    with pytest.raises(UserError, match=r"unknown tasks \['fly'\]"):
        suites.dataset_spec(config)
