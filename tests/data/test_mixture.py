"""Which episodes of which dataset train: balances, limits, filters, weights and splits."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from qt_jax import text
from qt_jax.curation import dataset_summary
from qt_jax.data import mixture, tables, validation_segments
from qt_jax.data.mixtures import Share
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec
from qt_jax.training import setup
from tests.data.recipes import (
    NUMBERS,
    first_states,
    frames_recipe,
    make_config,
    make_iterator,
    make_recipe,
    numbered,
    steps_of,
    take,
)
from tests.data.synthetic import LENGTHS, TOOK_OVER


def test_balance_of_kinds_in_every_batch(synthetic_root):
    recipe = make_recipe(synthetic_root, balance={"demonstrations": 0.5, "successes": 0.0, "failures": None})
    for batch in take(make_iterator(recipe), 10):
        assert batch.success.sum() == 4
    steps = [step for batch in take(make_iterator(recipe), 10) for step in steps_of(recipe, batch)]
    assert {episode % 3 for episode, _ in steps} == {0, 2}
    balance = {"demonstrations": 0.25, "successes": None, "failures": None}
    natural = make_recipe(synthetic_root, balance=balance)
    assert 0.4 < np.mean([batch.success.mean() for batch in take(make_iterator(natural), 40)]) < 0.8


@pytest.mark.parametrize(
    "balance, message",
    [
        ({"demonstrations": 0.5, "successes": 0.6}, "sum to 1"),
        ({"demonstrations": 0.5, "successes": 0.1, "failures": 0.1}, "sum to 1"),
    ],
)
def test_a_balance_that_does_not_sum_to_1_is_named(synthetic_root, balance, message):
    with pytest.raises(UserError, match=message):
        make_recipe(synthetic_root, balance=balance)


def test_a_share_of_a_kind_that_is_not_there_is_named(synthetic_root):
    recipe = make_recipe(synthetic_root, episodes="successes", balance={"failures": 0.5})
    with pytest.raises(
        UserError, match="The balance of .* share of 0.5 failures, but .*numbers_tfrecord has none"
    ):
        make_iterator(recipe)


def training_episodes(root, **data):
    return make_recipe(root, **data).mixture.sources[0].train.tolist()


def test_limits_keep_the_first_episodes_of_each_task_and_collector(synthetic_root):
    """Of 24 episodes every third is a demonstration, the others are noise; the odd ones are another task."""
    assert training_episodes(synthetic_root, limits=("demonstration=2", "noise=1")) == [0, 1, 2, 3, 6, 9]
    assert training_episodes(synthetic_root, limits=("noise=2",)) == [1, 2, 4, 5], "no others"
    assert training_episodes(synthetic_root, limits=("demonstration=99", "noise=99")) == list(range(24))
    limits = [(f"noise={count}", "demonstration=1") for count in range(4)]
    nested = [set(training_episodes(synthetic_root, limits=limit)) for limit in limits]
    assert nested[0] < nested[1] < nested[2] < nested[3]


def test_limits_count_training_episodes_and_leave_the_validation_split(synthetic_root):
    whole, limited = (
        make_recipe(synthetic_root, validation_fraction=0.5, limits=limits).mixture.sources[0]
        for limits in ((), ("noise=2",))
    )
    first = [[e for e in whole.train if e % 3 and e % 2 == odd][:2] for odd in (0, 1)]
    assert limited.train.tolist() == sorted(first[0] + first[1]) and len(limited.train) == 4
    np.testing.assert_array_equal(limited.validation, whole.validation)


def test_a_filter_within_limits_leaves_the_datasets_outcomes(synthetic_root):
    mixture = make_recipe(synthetic_root, limits=("noise=2",), episodes="successes").mixture
    assert mixture.sources[0].train.tolist() == [1, 4]
    assert mixture.success()["all"] == {"success": 2 / 3, "episodes": 24}


def test_demonstrations_and_failures_leave_out_the_other_successes(synthetic_root):
    found = training_episodes(synthetic_root, episodes="demonstrations_and_failures")
    assert found == [e for e in range(24) if e % 3 != 1]


def interventions(root, **data):
    config = make_config(mixture="interventions", text_encoder=text.ENCODER, **data)
    own = {"interventions": dataclasses.replace(NUMBERS, path=f"{root}/interventions")}
    return setup.prepare(config, tables.resolve(config.data, own))[1]


def test_of_interventions_the_person_s_steps_are_trained(synthetic_root):
    recipe = interventions(synthetic_root, episodes="demonstrations_and_interventions")
    (source,) = recipe.mixture.sources
    assert source.index.columns["intervened"].tolist() == [6, 3, 0] and source.train.tolist() == [0, 1]
    trained = Counter()
    for batch in take(make_iterator(recipe), 6):
        states = numbered(source.index.statistics["state"], batch.state[batch.trainable])
        trained.update(map(tuple, states))
    people = TOOK_OVER.values()
    assert set(trained) == {(e, t) for e, steps in enumerate(people) for t in steps}
    assert dataset_summary.people(dataset_summary.summary(recipe, source)) == (
        "acted at 9 of 18 steps, and took over in 1 episodes"
    )


def test_the_flag_changes_nothing_else(synthetic_root, monkeypatch):
    """Under every other filter; and an episode that does not say who acted is not guessed at."""
    recipe = interventions(synthetic_root)
    (source,) = recipe.mixture.sources
    assert source.train.tolist() == [0, 1, 2]
    assert {step for batch in take(make_iterator(recipe), 6) for step in batch.trainable.sum(1)} >= {5}
    silent = dataclasses.replace(source.index, columns=source.index.columns | {"intervened": np.full(3, -1)})
    monkeypatch.setattr(mixture.indexing, "load", lambda *_, **__: silent)
    with pytest.raises(UserError, match="has 1 episodes of 'intervention' that do not say at which steps"):
        interventions(synthetic_root, episodes="demonstrations_and_interventions")
    unknown = dataset_summary.summary(recipe, dataclasses.replace(source, index=silent))
    assert dataset_summary.people(unknown) == ""


@pytest.mark.parametrize(
    "limits, message",
    [
        (
            ("nois=1", "noise=1"),
            r"limits names the collectors \['nois'\]; .*numbers_tfrecord has \['demonstration', 'noise'\]",
        ),
        (("noise",), r"config.data.limits has \['noise'\]; expected entries such as 'demonstration=10'"),
        (("noise=few", "demonstration=1", "noise=-1"), r"config.data.limits has \['noise=few', 'noise=-1'\]"),
    ],
)
def test_wrong_limits_are_named(synthetic_root, limits, message):
    with pytest.raises(UserError, match=message):
        make_recipe(synthetic_root, limits=limits)


@pytest.mark.parametrize("name", ["episodes", "action_bounds"])
def test_an_unknown_choice_is_named(name):
    with pytest.raises(UserError, match=rf"config.data.{name} is 'best'; expected one of \("):
        mixture.open_mixture(make_config(**{name: "best"}).data, [])


def test_weights_and_balances_of_a_mixture(synthetic_root):
    config = make_config()
    one = dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord")
    two = dataclasses.replace(
        one, path=f"{synthetic_root}/numbers_array_record", action=ActionSpec(("y",), (0.0,), (1.0,), (5,))
    )
    tables.MIXTURES["both"] = {"one": 3.0, "two": Share(1.0, {"failures": 1.0})}
    config.data.mixture = "both"
    try:
        recipe = setup.prepare(config, tables.resolve(config.data, {"one": one, "two": two}))[1]
    finally:
        del tables.MIXTURES["both"]
    action = recipe.mixture.interface.action
    assert action.names == ("x", "y") and action.bins == (25, 5)
    for batch in take(make_iterator(recipe), 8):
        of_two = batch.bins[:, 1] == 5
        assert of_two.sum() == 2 and not batch.success[of_two].any()
        np.testing.assert_array_equal(batch.bins[~of_two], [[25, 0]] * 6)
        assert not batch.tokens[of_two][..., 0].any() and not batch.action_mask[of_two][..., 0].any()


def test_a_datasets_own_validation_split_is_used_and_another_split_is_reported(synthetic_root):
    recipe = frames_recipe(synthetic_root, "frames_splits", validation_fraction=0.5)
    source = recipe.mixture.sources[0]
    assert (len(source.train), len(source.validation)) == (8, 2)
    (batch,) = validation_segments.batches(
        recipe, validation_segments.held_out(recipe, 100)[::2], batch_size=2
    )
    assert set(first_states(source, batch)[:, 0]) == {8, 9}
    described = setup.describe(recipe)
    assert "8 training and 2 validation episodes of 10" in described
    assert "  validation is the dataset's own split 'val', nothing of 'train'" in described.splitlines()
    assert "  its split 'test', 2 episodes, is not read" in described.splitlines()


def test_what_two_datasets_share_is_noted(synthetic_root):
    (source,) = make_recipe(synthetic_root).mixture.sources
    name = source.action.names[0]

    def with_space(called, space, path):
        metadata = {"action_space": {name: {"space": space}}}
        directory = dataclasses.replace(source.directory, metadata=metadata, path=path)
        return dataclasses.replace(source, name=called, directory=directory)

    spaces = {"arm": ("absolute", "/a"), "other": ("absolute", "/b"), "third": ("delta", "/a")}
    noted = mixture._with_notes([with_space(called, *about) for called, about in spaces.items()])
    first, second, third = (one.spec.notes for one in noted)
    assert first == second == source.spec.notes
    assert f"its action '{name}' is delta, that of arm is absolute" in third[-2]
    assert third[-1] == "its files are those of arm too, so that their episodes are drawn for both"


def test_quantile_bounds_and_the_share_clipped(synthetic_root):
    by_spec = make_recipe(synthetic_root).mixture.sources[0]
    np.testing.assert_allclose(by_spec.clipped(), 0.0)
    assert by_spec.bins_used() == [24]
    measured = make_recipe(synthetic_root, action_bounds="quantiles").mixture.sources[0]
    samples = np.concatenate([(np.arange(n) + 0.5) / 25 for n in LENGTHS])
    low, high = np.quantile(samples, [0.01, 0.99])
    np.testing.assert_allclose([measured.action.low[0], measured.action.high[0]], [low, high], atol=1e-6)
    np.testing.assert_allclose(measured.clipped(), np.mean(samples > high), atol=1e-9)
