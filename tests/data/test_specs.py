"""Each dataset's conventions, on tiny copies of its public layout, and training on them through a config alone."""

import math

import numpy as np
import pytest

from qt_jax.data import episodes, records, tables
from qt_jax.data.loader import TrainingIterator
from qt_jax.data.specs import SPECS
from qt_jax.training import inputs, loop
from qt_jax.training.peers import Peers
from tests import tiny
from tests.data.synthetic import FRACTAL_INSTRUCTIONS


def make_config(root, mixture):
    config = tiny.get_config()
    config.data.root, config.data.mixture, config.data.image_size = root, mixture, 32
    config.data.validation_fraction = 0.2
    config.train.steps = 5
    return config


def read_all(root, name):
    (entry,) = tables.resolve(make_config(root, name).data, {})
    directory = records.open_directory(entry.spec.path)
    found = []
    for shard in directory.shards:
        for _, record in records.scan(shard, ""):
            example = directory.parse(record)
            found.append((example, episodes.read(example, entry.spec, 0.0)))
    return found


@pytest.mark.parametrize("name, dims", [("fractal_arm", 8), ("fractal_arm_base", 11)])
def test_fractal(synthetic_root, name, dims):
    """RT-1's order; terminate where the one-hot says so, one record before the last, which is o_T alone."""
    for number, (example, episode) in enumerate(read_all(synthetic_root, name)):
        steps, success = example["steps"], number % 3 != 2
        length = len(steps["is_last"]) - 1
        assert episode.actions.shape == (length, dims) and len(episode.images["front"]) == length + 1
        np.testing.assert_array_equal(episode.actions[:, 0], [0] * (length - 1) + [1])
        np.testing.assert_array_equal(episode.actions[:, 1:4], steps["action"]["world_vector"][:length])
        np.testing.assert_array_equal(episode.actions[:, 4:7], steps["action"]["rotation_delta"][:length])
        np.testing.assert_array_equal(episode.actions[:, 7:8], steps["action"]["gripper_closedness_action"][:length])
        if dims == 11:
            np.testing.assert_array_equal(episode.actions[:, 8:9], steps["action"]["base_displacement_vertical_rotation"][:length])
            np.testing.assert_array_equal(episode.actions[:, 9:], steps["action"]["base_displacement_vector"][:length])
        assert (episode.success, episode.terminal) == (success, success)
        np.testing.assert_array_equal(episode.rewards, [0] * (length - 1) + [float(success)])
        assert episode.dt == pytest.approx(1 / 3) and episode.instruction == FRACTAL_INSTRUCTIONS[number % 3]
        assert episode.embedding[0] == number % 3


def test_bridge(synthetic_root):
    found = read_all(synthetic_root, "bridge_v2")
    assert [episode is None for _, episode in found] == [False] * 5 + [True], "an episode without an instruction is left out"
    example, episode = found[0]
    state = example["steps"]["observation"]["state"]
    np.testing.assert_allclose(episode.actions[:, :6], np.diff(state[:, :6], axis=0), atol=1e-6)
    np.testing.assert_array_equal(episode.actions[:, 6], example["steps"]["action"][:-1, 6])
    assert episode.length == 7 and len(episode.state) == 8 and episode.success and episode.terminal
    assert episode.rewards.tolist() == [0.0] * 6 + [1.0] and episode.dt == pytest.approx(0.2)


def test_language_table(synthetic_root):
    example, episode = read_all(synthetic_root, "language_table")[0]
    assert episode.instruction == "push the red star to the blue cube" and episode.dt == pytest.approx(0.1)
    np.testing.assert_array_equal(episode.actions, example["steps"]["action"][:-1])
    np.testing.assert_array_equal(episode.state[:, 2:], example["steps"]["observation"]["effector_target_translation"])
    assert episode.length == 8 and len(episode.state) == 9 and episode.terminal


def test_the_arms_bounds_are_those_of_rt1():
    action = SPECS["fractal_arm"].action
    assert action.names == ("terminate", "x", "y", "z", "rx", "ry", "rz", "gripper") and action.bins == (2,) + (256,) * 7
    assert action.high[4] == pytest.approx(math.pi / 2) and action.low[1] == -1


def test_a_public_layout_trains_through_the_config_alone(synthetic_root, tmp_path):
    config = make_config(synthetic_root, "fractal_arm")
    config.workdir = str(tmp_path)
    state = loop.train(config, tables.resolve(config.data, {}), Peers())
    assert int(state.step) == 5


def test_three_robots_in_one_batch(synthetic_root):
    config = make_config(synthetic_root, "oxe")
    _, recipe, assets = inputs.load(config, tables.resolve(config.data, {}))
    batch = next(iterator := TrainingIterator(recipe, batch_size=10, threads=1))
    iterator.close()
    counts = [np.isclose(batch.dt[:, 0], dt).sum() for dt in (1 / 3, 1 / 5, 1 / 10)]
    assert sum(counts) == 10 and np.abs(np.asarray(counts) - [5, 3, 2]).max() <= 1
    assert assets.action.dims == 8 and batch.images["front"].shape == (10, 6, 32, 32, 3)
    assert {tuple(row) for row in batch.bins} == {(2,) + (256,) * 7, (0,) + (256,) * 6 + (2,), (0, 256, 256) + (0,) * 5}


def test_a_robot_dataset_beside_a_simulated_one(synthetic_root, dataset_path, tmp_path):
    """Different dims, bins, frequency and image size in one batch."""
    from qt_jax.cli import datasets

    (tmp_path / "lab.py").write_text("MIXTURES = {'lab': {'fractal_arm': 1, 'collected': 1}}")
    config = make_config(synthetic_root, "lab")
    config.data.tables, config.data.path, config.workdir = str(tmp_path / "lab.py"), dataset_path, str(tmp_path / "run")
    entries = datasets.entries(config)
    _, recipe, assets = inputs.load(config, entries)
    segment = next(iterator := TrainingIterator(recipe, batch_size=8, threads=1))
    iterator.close()
    simulated = segment.bins[:, 0] == 0
    assert simulated.sum() == 4 and assets.action.names[0] == "terminate"
    np.testing.assert_allclose(segment.dt[simulated], 0.0625)
    np.testing.assert_allclose(segment.dt[~simulated], 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(segment.bins[simulated][0], [0, 16, 16, 16, 0, 0, 0, 16])
    assert segment.state.shape[-1] == 4 and not segment.state[~simulated].any()
    assert int(loop.train(config, entries, Peers()).step) == 5


def test_stored_embeddings_are_used_where_their_encoder_is_asked_for(synthetic_root):
    config = make_config(synthetic_root, "fractal_arm")
    embed = lambda: inputs.load(config, tables.resolve(config.data, {}))[1].mixture.sources[0].index
    index = embed()
    assert np.linalg.norm(index.embeddings, axis=1) == pytest.approx(1.0, abs=0.2), "our encoder's"
    config.data.text_encoder = SPECS["fractal_arm"].text_encoder
    index = embed()
    number = index.instructions.index(FRACTAL_INSTRUCTIONS[2])
    np.testing.assert_array_equal(index.embeddings[number], np.full(512, 2.0))
