"""A dataset as `collect` writes it, read by others and by us."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from qt_jax import text
from qt_jax.data import episodes, rlds_writer
from qt_jax.data.rlds_names import import_rlds
from qt_jax.envs import collectors, metaworld
from qt_jax.errors import UserError
from tests import tiny
from tests.conftest import door


def load(path, **overrides):
    settings = dict(keep="all", validation_fraction=0.3, q_range=(0.0, 1.0), discount=0.98, dt_ref=0.0625)
    return episodes.load(path, **(settings | overrides))


@pytest.fixture(scope="module")
def tfrecord_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfrecord") / "tiny")
    door("collect", f"--config.data.path={path}", "--config.collect.file_format=tfrecord")
    return path


def state_only_config():
    config = tiny.get_config()
    config.env.cameras, config.env.state = (), "full"
    return config


@pytest.mark.tensorflow
def test_rlds_conventions_hold_for_tfds_and_rlds(tfrecord_path):
    import tensorflow_datasets as tfds

    rlds = import_rlds()
    builder = tfds.builder_from_directory(str(Path(tfrecord_path) / rlds_writer.VERSION))
    dataset = builder.as_dataset(split="train")
    assert dataset.cardinality() == 16
    for episode in dataset:
        steps = list(episode[rlds.STEPS].as_numpy_iterator())
        assert [s[rlds.IS_FIRST] for s in steps] == [True] + [False] * (len(steps) - 1)
        assert [s[rlds.IS_LAST] for s in steps] == [False] * (len(steps) - 1) + [True]
        assert steps[-1][rlds.IS_TERMINAL] == episode["success"] and not any(s[rlds.IS_TERMINAL] for s in steps[:-1])
        assert sum(s[rlds.REWARD] for s in steps) == float(episode["success"]) == steps[-2][rlds.REWARD]
        assert not steps[-1][rlds.ACTION].any()
        np.testing.assert_allclose(episode["instruction_embedding"], text.embed(episode["instruction"].numpy().decode()))
        total = rlds.transformations.sum_dataset(episode[rlds.STEPS], lambda step: step[rlds.REWARD])
        assert float(total) == float(episode["success"])


def test_both_file_formats_read_alike(dataset_path, tfrecord_path):
    one, other = load(dataset_path), load(tfrecord_path)
    assert len(one.train) == len(other.train) and one.text_encoder == text.ENCODER
    for a, b in zip(one.train + one.validation, other.train + other.validation):
        assert a.episode_id == b.episode_id and a.images == b.images
        np.testing.assert_array_equal(a.actions, b.actions)


def test_last_observation_is_kept(dataset_path):
    for episode in load(dataset_path).train:
        assert len(episode.state) == len(episode.images["front"]) == episode.length + 1
        assert episode.terminal == episode.success


def test_validation_split_is_by_episode_and_stable(dataset_path):
    whole, successes = load(dataset_path), load(dataset_path, keep="successes")
    ids = lambda part: {e.episode_id for e in part}
    assert whole.validation and not ids(whole.train) & ids(whole.validation)
    assert ids(successes.validation) <= ids(whole.validation) and ids(successes.train) <= ids(whole.train)
    assert all(e.success for e in successes.train)
    assert {e.collector for e in load(dataset_path, keep="demonstrations").train} == {"demonstration"}


@pytest.mark.tensorflow
def test_interrupted_collection_leaves_no_dataset(tmp_path):
    config = state_only_config()
    plans = collectors.plan_episodes(config.collect, ("faucet-open",))[0][:1]

    def broken():
        yield from collectors.collect_episodes(config, plans)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rlds_writer.write(str(tmp_path / "x"), broken(), action=metaworld.action_spec(config.env),
                          observation=metaworld.observation_spec(config.env), description="", file_format="array_record")  # fmt: skip
    with pytest.raises(UserError, match="holds no RLDS dataset"):
        load(str(tmp_path / "x"))


@pytest.mark.parametrize("format_fixture", ["dataset_path", "tfrecord_path"])
@pytest.mark.parametrize("damage", ["truncated", "empty"])
def test_damaged_files_are_one_clear_line(format_fixture, damage, request, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(request.getfixturevalue(format_fixture), copy)
    (file,) = (copy / rlds_writer.VERSION).glob("*-00000-of-*")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(UserError, match="collect it again") as error:
        load(str(copy))
    assert "\n" not in str(error.value)


def rewritten(tmp_path, change):
    """A demonstration, changed, as a dataset of its own."""
    config = state_only_config()
    plans = collectors.plan_episodes(config.collect, ("faucet-open",))[0][:1]
    (episode,) = map(change, collectors.collect_episodes(config, plans))
    path = str(tmp_path / "changed")
    rlds_writer.write(path, [episode], action=metaworld.action_spec(config.env), observation=metaworld.observation_spec(config.env),
                      description="", file_format="array_record")  # fmt: skip
    return path


@pytest.mark.tensorflow
def test_nan_reward_is_named_with_episode_and_step(tmp_path):
    def change(episode):
        rewards = episode.rewards.copy()
        rewards[2] = np.nan
        return dataclasses.replace(episode, rewards=rewards)

    with pytest.raises(UserError, match="faucet-open/demonstration/000000', step 2: rewards is not finite"):
        load(rewritten(tmp_path, change))


@pytest.mark.tensorflow
def test_return_outside_the_value_range_is_named(tmp_path):
    path = rewritten(tmp_path, lambda e: dataclasses.replace(e, rewards=e.rewards * 5))
    with pytest.raises(UserError, match=r"returns from .* to 5, outside config.value_range=\(0, 1\)"):
        load(path)


def test_missing_dataset_and_unknown_filter(tmp_path):
    with pytest.raises(UserError, match="run `python -m qt_jax collect"):
        load(str(tmp_path))
    with pytest.raises(UserError, match="'winners'"):
        load(str(tmp_path), keep="winners")
