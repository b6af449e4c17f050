"""A dataset as `collect` writes it, read by TFDS, by rlds and by this project."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from qt_jax import text
from qt_jax.curation import rlds_writer
from qt_jax.curation.rlds_names import import_rlds
from qt_jax.data import index
from qt_jax.envs import collectors, metaworld
from qt_jax.errors import UserError
from qt_jax.training import datasets, setup
from qt_jax.training.config import validate
from tests import tiny
from tests.conftest import run_command


def load(path, config=None, **settings):
    """Opens the dataset as training does; returns its Source."""
    config = config or tiny.get_config()
    config.data.path, config.data.validation_fraction = path, 0.3
    config.data.update(settings)
    _, recipe, _ = setup.prepare(config, datasets.entries(config))
    return recipe.mixture.sources[0]


def episodes_of(source):
    """All its episodes, in order."""
    numbers = range(len(source.index))
    return [index.read(source.directory, source.index, source.spec, number, 0.0, "") for number in numbers]


@pytest.fixture(scope="module")
def tfrecord_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfrecord") / "tiny")
    run_command("collect", f"--config.data.path={path}", "--config.collect.file_format=tfrecord")
    return path


def write(path, config, collected):
    rlds_writer.write(
        str(path),
        collected,
        action=metaworld.action_spec(config.env),
        observation=metaworld.observation_spec(config.env),
        description="",
        file_format="array_record",
    )


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
        assert steps[-1][rlds.IS_TERMINAL] == episode["success"]
        assert not any(s[rlds.IS_TERMINAL] for s in steps[:-1])
        assert sum(s[rlds.REWARD] for s in steps) == float(episode["success"]) == steps[-2][rlds.REWARD]
        assert not steps[-1][rlds.ACTION].any()
        embedding = text.embed(episode["instruction"].numpy().decode())
        np.testing.assert_allclose(episode["instruction_embedding"], embedding)
        total = rlds.transformations.sum_dataset(episode[rlds.STEPS], lambda step: step[rlds.REWARD])
        assert float(total) == float(episode["success"])


def test_both_file_formats_read_alike(dataset_path, tfrecord_path):
    one, other = load(dataset_path), load(tfrecord_path)
    formats = [source.directory.shards[0].file_format for source in (one, other)]
    assert formats == ["array_record", "tfrecord"]
    np.testing.assert_array_equal(one.train, other.train)
    for a, b in zip(episodes_of(one), episodes_of(other), strict=True):
        assert a.episode_id == b.episode_id and list(a.images["front"]) == list(b.images["front"])
        np.testing.assert_array_equal(a.actions, b.actions)
    assert one.index.statistics == other.index.statistics and one.index.fingerprint == other.index.fingerprint


def test_last_observation_is_kept(dataset_path):
    for episode in episodes_of(load(dataset_path)):
        assert len(episode.state) == len(episode.images["front"]) == episode.length + 1
        assert episode.terminal == episode.success


def test_validation_split_is_by_episode_and_stable(dataset_path):
    whole, successes = load(dataset_path), load(dataset_path, episodes="successes")
    assert len(whole.validation) and not set(whole.train) & set(whole.validation)
    assert set(successes.validation) <= set(whole.validation) and set(successes.train) <= set(whole.train)
    assert whole.index.columns["success"][successes.train].all()
    demonstrations = load(dataset_path, episodes="demonstrations")
    assert whole.index.columns["demonstration"][demonstrations.train].all()


@pytest.mark.tensorflow
def test_interrupted_collection_leaves_no_dataset(tmp_path):
    config = state_only_config()
    plans = collectors.plan_episodes(config.collect, ("faucet-open",))[0][:1]

    def broken():
        yield from collectors.collect_episodes(config, plans)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", config, broken())
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
    message = f"{file.name}.*(record|cannot be read).*16 episodes; config.data.max_skipped=0"
    with pytest.raises(UserError, match=message) as error:
        load(str(copy))
    assert "\n" not in str(error.value)


def load_state_only(path, **changes):
    """Opens a dataset without images under a DatasetSpec with these changes."""
    config = state_only_config()
    config.data.path, config.data.validation_fraction = path, 0.0
    (entry,) = datasets.entries(config)
    changed = dataclasses.replace(entry, spec=dataclasses.replace(entry.spec, **changes))
    return setup.prepare(config, [changed])


def rewritten(tmp_path, change):
    """Writes a dataset of one demonstration that `change` was applied to; returns its path."""
    config = state_only_config()
    plans = collectors.plan_episodes(config.collect, ("faucet-open",))[0][:1]
    (episode,) = map(change, collectors.collect_episodes(config, plans))
    write(tmp_path / "changed", config, [episode])
    return str(tmp_path / "changed")


@pytest.mark.tensorflow
def test_nan_reward_is_named_with_episode_and_step(tmp_path):
    def change(episode):
        rewards = episode.rewards.copy()
        rewards[2] = np.nan
        return dataclasses.replace(episode, rewards=rewards)

    message = "train.array_record-00000-of-00001, episode 0, step 2: rewards is not finite"
    with pytest.raises(UserError, match=message):
        load_state_only(rewritten(tmp_path, change), reward="stored")


@pytest.mark.tensorflow
def test_return_outside_the_value_range_is_named(tmp_path):
    path = rewritten(tmp_path, lambda e: dataclasses.replace(e, rewards=e.rewards * 5))
    with pytest.raises(UserError, match=r"value_range=\(0, 1\): collected .* to 5, 1 of 1 "):
        load_state_only(path, reward="stored")


def test_missing_dataset_and_unknown_filter(tmp_path):
    with pytest.raises(UserError, match="run `python -m qt_jax collect"):
        load(str(tmp_path))
    config = tiny.get_config()
    config.data.episodes = "winners"
    with pytest.raises(UserError, match="config.data.episodes is 'winners'"):
        validate(config, 1)
