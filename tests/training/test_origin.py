"""What a run and the one that it starts from must have in common, and what they need not."""

import dataclasses

import pytest

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, Interface, ObservationSpec
from qt_jax.training import origin
from qt_jax.training.assets import Assets, DatasetAssets
from tests.data.synthetic import unit_statistics

ACTION = ActionSpec(("x", "gripper"), (-1.0, 0.0), (1.0, 1.0), (16, 2))
OTHER_BOUNDS = dataclasses.replace(ACTION, low=(-2.0, 0.0))


def assets(
    action=ACTION,
    datasets=None,
    observation=("front",),
    encoder="use",
    agent="iql",
    chunks=(1, 1),
    **settings,
):
    """Of a run; datasets: {name: its action}, by default "lab" with the network's; settings: "data__x=1"."""
    config = {"agent": agents.get(agent).get_config().to_dict(), "model": {}, "data": {"step_penalty": 0.0}}
    config |= {"value_range": [0.0, 1.0], "discount": 0.98, "dt_ref": 0.0625}
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    joint = Interface(action, ObservationSpec(observation, (32, 32), 3, "joints"), 4, *chunks)
    robots = {
        name: DatasetAssets(
            dataclasses.replace(joint, action=own), unit_statistics(3), unit_statistics(2), 0.1
        )
        for name, own in (datasets or {"lab": action}).items()
    }
    return Assets(joint, robots, encoder, config, "1234", {})


def check(monkeypatch, before, now):
    monkeypatch.setattr(origin, "load_assets", lambda run: before)
    origin.check("runs/before", now)


@pytest.mark.parametrize(
    "other, difference",
    [
        ({"agent": "bc"}, "config.agent.name bc, this run has iql"),
        ({"value_range": [-5.0, 5.0]}, "config.value_range .-5.0, 5.0., this run has .0.0, 1.0."),
        ({"discount": 0.9}, "config.discount 0.9, this run has 0.98"),
        ({"data__step_penalty": 0.1}, "config.data.step_penalty 0.1, this run has 0.0"),
        ({"agent__value_loss": "histogram"}, "config.agent.value_loss histogram, this run has squared"),
        ({"action": dataclasses.replace(ACTION, bins=(8, 2))}, "action bins .8, 2., this run has .16, 2."),
        ({"action": ActionSpec(("x",), (-1.0,), (1.0,), (16,))}, "names .'x',., this run has .'x', 'grip"),
        ({"datasets": {"lab": OTHER_BOUNDS}}, "action of lab: low .-2.0, 0.0., this run has .-1.0, 0.0."),
        ({"action": OTHER_BOUNDS, "datasets": {"kitchen": OTHER_BOUNDS}}, "action low .-2.0, 0.0., this run"),
        ({"observation": ("front", "wrist")}, "cameras .'front', 'wrist'., this run has .'front',."),
        ({"chunks": (3, 2)}, "model.chunk 3, this run has 1; config.model.execute 2, this run has 1"),
        ({"encoder": "other"}, "text encoder other, this run has use"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_would_mean_something_else_is_refused_by_name(monkeypatch, other, difference):
    with pytest.raises(UserError, match=f"init_from=runs/before was trained with .*{difference}"):
        check(monkeypatch, assets(**other), assets())


def test_what_a_return_means_is_compared(monkeypatch):
    conditioned = {"agent": "decision_transformer"}
    with pytest.raises(UserError, match="config.data.step_penalty 0.1, this run has 0.0"):
        check(monkeypatch, assets(**conditioned, data__step_penalty=0.1), assets(**conditioned))
    check(monkeypatch, assets(**conditioned, discount=0.9), assets(**conditioned))


def test_all_that_differs_is_named_at_once(monkeypatch):
    with pytest.raises(UserError, match="config.value_range .* config.discount .* text encoder"):
        check(monkeypatch, assets(discount=0.9, value_range=[0.0, 2.0], encoder="other"), assets())


def test_other_data_of_the_same_robot_and_other_settings_are_welcome(monkeypatch):
    check(monkeypatch, assets(agent__expectile=0.9), assets(agent__expectile=0.7))
    check(monkeypatch, assets(), assets(datasets={"kitchen": ACTION}))
    mixture = assets(OTHER_BOUNDS, {"lab": ACTION, "kitchen": OTHER_BOUNDS})
    check(monkeypatch, mixture, assets())
    check(monkeypatch, assets(), mixture)
    check(monkeypatch, assets(agent="bc", value_range=[0.0, 9.0], discount=0.5), assets(agent="bc"))
