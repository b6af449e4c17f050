"""Returns of whole datasets by hand, and value ranges that do not hold them."""

import types

import ml_collections
import numpy as np
import pytest
from ml_collections import config_dict

from qt_jax.agents import bc
from qt_jax.data import records, returns, stored
from qt_jax.errors import UserError
from qt_jax.training import setup
from tests.data.recipes import make_config, make_iterator, numbers_entries, take


def index(*episodes, dt=1.0):
    """Of (rewards, terminal) each, without a step penalty."""
    rewards = [np.float32(paid) for paid, _ in episodes]
    dense = np.asarray([bool(paid[:-1].any()) for paid in rewards])
    columns = {
        "length": np.asarray([len(paid) for paid in rewards], np.int32),
        "final_reward": np.float32([paid[-1] for paid in rewards]),
        "dense": dense,
        "dt": np.full(len(rewards), dt, np.float32),
        "shard": np.zeros(len(rewards), np.int32),
        "place": np.arange(len(rewards), dtype=np.int32),
        "success": np.asarray([terminal for _, terminal in episodes]),
    }
    stored = [paid for paid, is_dense in zip(rewards, dense) if is_dense]
    stored = np.concatenate([np.zeros(0, np.float32), *stored])
    return types.SimpleNamespace(columns=columns, rewards=stored)


def source(name, *episodes, train=None, validation=()):
    shard = stored.Shard("train-00000", "tfrecord", size=0, modified=0.0, examples=0)
    train = np.arange(len(episodes)) if train is None else np.asarray(train)
    directory = records.Directory(f"data/{name}", (shard,), {}, features=None, metadata={})
    split = {"train": train, "validation": np.asarray(validation, int)}
    return types.SimpleNamespace(name=name, index=index(*episodes), directory=directory, **split)


def check(*sources, value_range=(0.0, 1.0), discount=0.5, step_penalty=0.0, relabel_rate=0.0):
    config = ml_collections.ConfigDict({
        "value_range": value_range, "discount": discount, "dt_ref": 1.0,
        "data": {"step_penalty": step_penalty, "relabel_rate": relabel_rate},
    })  # fmt: skip
    returns.check(types.SimpleNamespace(sources=sources), config)


def test_sparse_and_dense_episodes_by_hand():
    three = index(([0, 0, 1], True), ([2, -1, 4], False), ([3], True), dt=2.0)
    found = returns.of_index(three, 0.0, 0.5, 1.0)
    np.testing.assert_allclose(found.discounted, [1 / 16, 1 / 4, 1, 2 + (-1 + 4 / 4) / 4, -1 + 4 / 4, 4, 3])
    np.testing.assert_allclose(found.whole, [1, 5, 3])
    np.testing.assert_allclose([found.least, found.greatest], [[1 / 16, 0, 3], [1, 4, 3]])
    assert found.outside((0.0, 3.0)).tolist() == [False, True, False]


def test_penalties_and_what_hindsight_makes_of_an_episode():
    one = index(([0, 1], True))
    one.columns["final_reward"] -= np.float32(0.25)

    def of_two(**kind):
        return returns.of_index(one, 0.25, 0.5, 1.0, **kind).discounted

    np.testing.assert_allclose(of_two(), [-0.25 + 0.5 * 0.75, 0.75])
    np.testing.assert_allclose(of_two(failed=True), [-0.25 - 0.125, -0.25])


def test_every_dataset_that_is_outside_is_named_with_its_range():
    inside = source("inside", ([0, 1], True))
    dense = source("dense", ([0.5, 0], True), ([2, 2, 0.5], True), ([0, 0.25], False))
    check(inside)
    expected = (
        r"config.value_range=\(0, 1\): dense from 0 to 3.125, 1 of 3 episodes outside, the first "
        r"data/dense: train-00000, episode 1; sparse from -2 to -1, 1 of 1 episodes "
        r".* at least \(-2, 3.13\)"
    )
    with pytest.raises(UserError, match=expected):
        check(inside, dense, source("sparse", ([0, -2], False)))
    check(inside, dense, source("sparse", ([0, -2], False)), value_range=(-2.0, 3.13))


def test_what_is_neither_trained_on_nor_validated_on_may_lie_outside():
    check(source("a", ([5], True), ([1], True), ([0, 7], True), train=[1]))
    with pytest.raises(UserError, match="from 1 to 7, 1 of 2 .* the first data/a: train-00000, episode 2"):
        check(source("a", ([5], True), ([1], True), ([0, 7], True), train=[1], validation=[2]))


def test_what_was_paid_before_an_episode_was_cut_off_must_lie_inside():
    """Without a discount, too: what comes after the cut may be more."""
    penalised = source("a", ([-0.25] * 4, False))
    check(penalised, value_range=(-1.0, 1.0), discount=1.0)
    with pytest.raises(UserError, match="from -1 to -0.25"):
        check(penalised, value_range=(-0.5, 1.0), discount=1.0)


def target(*episodes, asked=None, **training):
    config = ml_collections.ConfigDict({"discount": 0.5, "dt_ref": 1.0, "data": {"step_penalty": 0.0}})
    config.agent = {"target_return": config_dict.placeholder(float)}
    config.agent.target_return = asked
    return returns.target(source("a", *episodes, **training), config)


def test_the_target_return_is_a_high_one_of_the_successful_training_episodes():
    slow, quick, failed = ([-0.5, -0.5, 1.0], True), ([-0.5, 1.0], True), ([-0.5, -0.5], False)
    assert target(([0, 0, 1], True), ([0, 0], False)) == 1.0
    assert target(slow, quick, failed) == target(quick, failed) == 0.5
    assert target(slow, quick, failed, train=[0, 2]) == 0.0
    assert target(failed, failed) == -1.0
    lucky = ([9.0], True)
    assert target(*[quick] * 11, lucky) == 0.5, "one stroke of luck is not asked for again"


def test_a_return_that_is_asked_for_must_be_like_the_datas():
    episodes = ([-0.5, 1.0], True), ([-0.5, -0.5], False)
    assert target(*episodes, asked=0.25) == 0.25
    assert target(([-0.1, -0.1, 0.8], True), asked=0.6) == 0.6, "as the float32 rewards add up, not quite"
    with pytest.raises(UserError, match=r"is 1; the episodes of a \(data/a\) have returns from -1 to 0.5"):
        target(*episodes, asked=1.0)
    with pytest.raises(UserError, match="is inf; the episodes"):
        target(*episodes, asked=float("inf"))


def test_failures_of_hindsight_must_lie_inside():
    paid = source("a", ([0.5, 0.5], True))
    check(paid, value_range=(0.5, 1.0))
    with pytest.raises(UserError, match=r"as hindsight relabels it \(config.data.relabel_rate\) from 0 to 0"):
        check(paid, value_range=(0.5, 1.0), relabel_rate=0.1)


def test_step_penalty_and_the_value_range_that_follows(synthetic_root):
    config = make_config(step_penalty=0.01)
    entries = numbers_entries(config, synthetic_root)
    resolved, recipe, _ = setup.prepare(config, entries)
    gamma = config.discount ** (0.1 / config.dt_ref)
    np.testing.assert_allclose(resolved.value_range, (-0.01 / (1 - gamma), 1.0))
    (batch,) = take(make_iterator(recipe), 1)
    rewards = batch.reward[batch.trainable]
    assert set(np.round(rewards, 4)) <= {np.float32(-0.01), np.float32(0.99)}
    config.discount = 1.0
    with pytest.raises(UserError, match=r"no bound.*longest of the data has 24, which makes \(-0.24, 1\)"):
        setup.prepare(config, entries)
    config.value_range = (-0.24, 1.0)
    (batch,) = take(make_iterator(setup.prepare(config, entries)[1]), 1)
    assert batch.mc_return.min() >= np.float32(-0.24)


def test_an_agent_without_values_needs_no_value_range(synthetic_root):
    config = make_config(step_penalty=0.5)
    config.discount, config.agent = 1.0, bc.get_config()
    entries = numbers_entries(config, synthetic_root)
    setup.prepare(config, entries)
    config.value_range = (0.0, 0.1)
    setup.prepare(config, entries)
