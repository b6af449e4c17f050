"""What acts in collected episodes, in the small suite of examples/my_suite.py: a point, and two corners."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

import qt_jax
from examples import my_suite
from qt_jax.envs import behaviours, collectors
from qt_jax.errors import UserError
from tests import tiny

POINT = np.array([0.02, -0.7])
STATE = {"point": POINT, "offset": np.zeros(2)}
LEFT, RIGHT = my_suite.Expert("left")(STATE), my_suite.Expert("right")(STATE)


def make_config(**collect):
    config = my_suite.get_config()
    for name, value in collect.items():
        config.collect[name] = value
    return config


def acted(config, kind: str, episodes: int, decisions: int) -> np.ndarray:
    """Returns what a behaviour of the task "left" does where nothing moves: [episodes, decisions, 2]."""
    result = []
    for seed in range(episodes):
        behaviour = behaviours.scripted(config, kind, "left", np.random.default_rng(seed))
        result.append([behaviour(STATE, {}) for _ in range(decisions)])
    return np.asarray(result)


def test_a_wanderer_acts_in_pieces_of_three_kinds():
    actions = acted(make_config(wander_noise=0.0), "wander", episodes=200, decisions=60)
    lengths, own, others = [], 0, 0
    for episode in actions:
        runs = [(action, len([*same])) for action, same in itertools.groupby(map(tuple, episode))]
        lengths += [length for action, length in runs[:-1] if action not in (tuple(LEFT), tuple(RIGHT))]
        own += sum(length for action, length in runs if action == tuple(LEFT))
        others += sum(length for action, length in runs if action == tuple(RIGHT))
    assert {*lengths} == {2, 3, 4, 5, 6}  # of held actions, no two of which are alike
    assert own / 12000 == pytest.approx(0.35, abs=0.02)
    assert others / 12000 == pytest.approx(0.325, abs=0.02)
    noisy = acted(make_config(wander_noise=0.1, wander_expert=1.0), "wander", 50, 20)[..., 0]
    assert np.std(noisy - LEFT[0], where=LEFT[0] + 0.3 > -1) == pytest.approx(0.06, abs=0.03)


def test_a_person_is_slow_rests_and_goes_astray():
    slow = acted(make_config(human_idle=0.0, human_detour=0.0), "human", episodes=100, decisions=10)
    speed = slow[:, :, 0] / LEFT[0]
    np.testing.assert_allclose(speed, speed[:, :1].repeat(10, axis=1), rtol=1e-6)  # one for an episode
    assert 0.5 <= speed.min() < 0.55 and 0.95 < speed.max() <= 1.0

    resting = acted(make_config(human_detour=0.0), "human", episodes=200, decisions=50) == 0
    assert resting.all(axis=-1).mean() == pytest.approx(0.1, abs=0.01)

    calm = make_config(human_idle=0.0, human_speed=(1.0, 1.0))
    astray = (acted(calm, "human", episodes=300, decisions=15) != LEFT).any(axis=-1)
    assert astray.any(axis=1).mean() == pytest.approx(1 / 3, abs=0.06)
    for episode in astray[astray.any(axis=1)]:
        (places,) = episode.nonzero()
        assert 1 <= places[0] <= 6 and 3 <= len(places) <= 6 and np.ptp(places) == len(places) - 1


def test_a_persons_hand_holds_on_while_it_rests_and_people_have_styles(monkeypatch):
    suite = my_suite.suite
    monkeypatch.setattr(suite, "STYLES", {"left": ("right",)})
    calm = make_config(human_idle=0.0, human_detour=0.0, human_speed=(1.0, 1.0))
    styles = acted(calm, "human", episodes=100, decisions=1)[:, 0, 0]
    assert {*styles} == {LEFT[0], RIGHT[0]} and np.mean(styles == LEFT[0]) == pytest.approx(0.5, abs=0.15)

    of_gripper = my_suite.ActionSpec(("x", "gripper"), (-1.0, -1.0), (1.0, 1.0), (32, 32))
    monkeypatch.setattr(suite, "STYLES", {})
    monkeypatch.setattr(suite, "action_spec", lambda config: of_gripper)
    resting = acted(make_config(human_idle=0.5, human_detour=0.0), "human", episodes=20, decisions=40)
    assert (resting[..., 0] == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert (resting[..., 1] == LEFT[1]).all()


def test_people_give_demonstrations():
    config = make_config(demonstrator="human", demonstrations=3, autonomous=2, mix={"wander": 1.0})
    (plans,) = collectors.plan_episodes(config.collect, ("left",))
    assert [plan.collector for plan in plans] == ["human"] * 3 + ["wander"] * 2
    episodes = collectors.collect_episodes(config, plans)
    assert all(episode.success and episode.intervention.all() for episode in episodes[:3])
    assert not any(episode.intervention.any() for episode in episodes[3:])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"demonstrator": "noise"}, "demonstrator is 'noise', expected one of"),
        ({"human_idle": 1.5}, r"human_idle is 1.5, expected a share in \[0, 1\]"),
        ({"mix": {"policy": 1.0}}, "config.collect.policy is '', expected the directory of a run"),
    ],
)
def test_a_bad_setting_is_named(settings, problem):
    with pytest.raises(UserError, match=problem):
        collectors.plan_episodes(make_config(**settings).collect, ("left",))


def test_a_person_takes_over_from_a_policy_in_pieces():
    config, asked = make_config(intervention_share=0.3), []

    def policy(simulator_state, observation):
        asked.append(observation)
        return RIGHT

    actions = []
    for seed in range(200):
        behaviour = behaviours.Intervened(policy, config, "left", np.random.default_rng(seed))
        actions.append([(*behaviour(STATE, {}), behaviour.by_person) for _ in range(60)])
    taken = (np.asarray(actions)[..., :2] == LEFT).all(axis=-1)
    np.testing.assert_array_equal(np.asarray(actions)[..., 2], taken)
    assert taken.mean() == pytest.approx(0.3, abs=0.02) and len(asked) == 200 * 60
    lengths = [[len([*same]) for _, same in itertools.groupby(episode)][:-1] for episode in taken]
    assert min(itertools.chain(*lengths)) == 2  # the last of an episode is cut by its end


def test_a_policys_episodes_are_those_that_it_plays(trained):
    config = tiny.get_config()
    plan = collectors.EpisodePlan("faucet-open", "policy", 7)
    policy = qt_jax.load_policy(trained.workdir)
    (episode,) = collectors.collect_episodes(config, [plan], policy)
    (again,) = collectors.collect_episodes(config, [plan], policy)
    np.testing.assert_array_equal(episode.actions, again.actions)
    assert episode.collector == "policy" and episode.success == bool(episode.rewards[-1])

    seen = {"prompt": episode.instruction, "reset": True, "seed": 7, "observation/state": episode.state[0]}
    image = np.asarray(Image.open(io.BytesIO(episode.images["front"][0])))
    decided = policy.infer(seen | {"observation/front": image})["actions"][0]
    assert np.abs(decided - episode.actions[0]).max() < 0.3  # of a JPEG


def ends_left(episode) -> bool:
    return bool(episode.state[-1, 0] < 0)


def without_a_word(episode) -> None:
    return None


def test_a_function_of_one_s_own_labels_autonomous_episodes():
    config = make_config(demonstrations=2, autonomous=6, mix={"wander": 1.0}, label=f"{__name__}:ends_left")
    (plans,) = collectors.plan_episodes(config.collect, ("right",))
    episodes = collectors.collect_episodes(config, plans)
    assert all(episode.success and not ends_left(episode) for episode in episodes[:2])
    assert {episode.success for episode in episodes[2:]} == {False, True}
    for episode in episodes[2:]:
        assert episode.success == ends_left(episode) == episode.rewards[-1] and not episode.rewards[:-1].any()

    config.collect.label = f"{__name__}:without_a_word"
    with pytest.raises(
        UserError, match="without_a_word' gives None of episode right/wander/000002; expected Tr"
    ):
        collectors.collect_episodes(config, plans)
    config.collect.label = "success"
    with pytest.raises(UserError, match="config.collect.label is 'success'; expected one of simulator, or"):
        collectors.plan_episodes(config.collect, ("right",))
