"""OGBench's files, small ones of our own making, through the command, and as its suite reads them."""

import numpy as np
import pytest

from experiments import ogbench
from qt_jax.curation import convert
from qt_jax.data import index as indices
from qt_jax.data import play
from qt_jax.errors import UserError
from qt_jax.training import datasets, setup
from tests.conftest import run_command

STATES = 28  # of cube-single
GOAL = (0.425, -0.1, 0.02)
"""Of cube-single-task1."""


def arrays(*lengths, at_goal=()):
    """Episodes of so many records; `at_goal`: numbers of records whose cube lies at the goal of task 1."""
    count, rng = sum(lengths), np.random.default_rng(count := sum(lengths))
    observations = rng.normal(size=(count, STATES)).astype(np.float32)
    observations[:, 19:22] = (0.0, 2.0, 0.2)  # at (0.425, 0.2, 0.02) m
    observations[list(at_goal), 19:22] = (0.0, -1.0, 0.2)
    terminals = np.zeros(count, bool)
    terminals[np.cumsum(lengths) - 1] = True
    actions = rng.uniform(-1, 1, (count, 5)).astype(np.float32)
    return {"observations": observations, "actions": actions, "terminals": terminals}


@pytest.fixture
def file(tmp_path):
    """Two episodes of training, of 7 and 5 records, and one of validation, of 4."""
    np.savez_compressed(tmp_path / "cube-single-play-v0.npz", **arrays(7, 5, at_goal=(3,)), qpos=np.zeros(12))
    np.savez_compressed(tmp_path / "cube-single-play-v0-val.npz", **arrays(4))
    return tmp_path / "cube-single-play-v0.npz"


def opened(path, **flags):
    return convert.open_source(convert.Settings(input=str(path), format="ogbench", **flags))


def test_an_episode_gives_up_its_last_action_as_in_ogbench(file):
    utils = pytest.importorskip("ogbench.utils")
    source, theirs = opened(file), utils.load_dataset(str(file))
    found = list(convert.episodes(source, source.units, []))
    assert [len(episode.actions) for episode in found] == [6, 4] and source.episodes == 3
    for field, key in (("state", "observations"), ("actions", "actions")):
        ours = np.concatenate([getattr(episode, field)[: len(episode.actions)] for episode in found])
        np.testing.assert_array_equal(ours, theirs[key])
    following = np.concatenate([episode.state[1:] for episode in found])
    np.testing.assert_array_equal(following, theirs["next_observations"])
    assert {(e.task, e.collector, e.dt, e.success) for e in found} == {("play", "play", 0.05, False)}
    (held_out,) = convert.episodes(source, source.validation, [])
    assert held_out.episode_id == "play/play/000002" and len(held_out.actions) == 3


def test_the_command_writes_both_splits_and_the_suite_reads_them_as_its_tasks(file, tmp_path):
    flags = f"--input={file}", "--format=ogbench", f"--output={tmp_path / 'data'}"
    assert "3 episodes" in run_command("convert", *flags, config="").stdout
    config = ogbench.get_config("cube-single-play")
    config.data.path, config.data.cache = str(tmp_path / "data"), str(tmp_path / "cache")
    config.env.action_repeat = 1
    _, recipe, _ = setup.prepare(config, datasets.entries(config))
    (source,) = recipe.mixture.sources
    index = source.index

    def name(number):
        return index.tasks[index.columns["task"][number]]

    # Record 3 is at the goal of task 1, so its first episode is three there: records 0-3, 3-4 and 4-6.
    lengths = {task: [] for task in index.tasks}
    for number in source.train:
        lengths[name(number)].append(
            (int(index.columns["length"][number]), bool(index.columns["success"][number]))
        )
    assert lengths.pop("cube-single-task1") == [(3, True), (1, False), (2, False), (4, False)]
    assert len(lengths) == 4 and all(found == [(6, False), (4, False)] for found in lengths.values())
    assert sorted(map(name, source.validation)) == sorted(index.tasks)
    assert index.instructions_of_tasks.keys() == set(index.tasks) and play.TASK not in index.tasks

    first = indices.read(source.directory, index, source.spec, int(source.train[0]), 0.0, "")
    stored = np.load(file)
    np.testing.assert_array_equal(first.state, stored["observations"][:4])
    np.testing.assert_array_equal(first.rewards, [-1, -1, -1])
    assert first.terminal and first.instruction == "move the cube to the right"
    # Statistics are of what is stored, each step once.
    states = np.concatenate(
        [stored["observations"], np.load(str(file).replace(".npz", "-val.npz"))["observations"]]
    )
    np.testing.assert_allclose(index.statistics["state"].mean, states.mean(0), atol=1e-5)
    config.data.relabel_rate = 0.3
    with pytest.raises(UserError, match="relabel_rate is 0.3, and collected is play, which is an ep"):
        setup.prepare(config, datasets.entries(config))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"terminals": np.zeros(12, bool)}, "does not end with the end of an episode"),
        ({"observations": np.zeros((12, 8, 8, 3), np.uint8)}, "Images are not read"),
        ({"actions": np.zeros((11, 5), np.float32)}, "has arrays of shapes"),
        ({"actions": None}, r"has no \['actions'\]; expected OGBench's"),
    ],
)
def test_a_file_that_is_none_of_ogbenchs_is_one_line(tmp_path, change, message):
    content = {key: value for key, value in (arrays(7, 5) | change).items() if value is not None}
    np.savez(tmp_path / "broken.npz", **content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "broken.npz")


def test_flags_and_files_that_mean_nothing_here(file):
    with pytest.raises(UserError, match="--success means nothing for OGBench's files"):
        opened(file, success="all")
    with pytest.raises(UserError, match="expected the file NAME.npz of training"):
        opened(str(file).replace(".npz", "-val.npz"))
    with pytest.raises(UserError, match=r"cut.npz"):
        file.with_name("cut.npz").write_bytes(file.read_bytes()[:100])
        opened(file.with_name("cut.npz"))
