"""`score`: values by networks that did not see an episode, by hand and in copies of real files."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import qt_jax
from qt_jax.cli import score as command
from qt_jax.curation import shown_episodes
from qt_jax.curation.score import STEP_VALUES, judge, lerobot
from qt_jax.curation.score.chances import success_probabilities
from qt_jax.curation.score.judge import Judge
from qt_jax.curation.score.scored import Scored
from qt_jax.data import directories
from qt_jax.data.lerobot import open_folder
from qt_jax.data.mixture import fold_of
from qt_jax.errors import UserError
from qt_jax.training import checkpoints, datasets, setup
from tests.conftest import run_command
from tests.data.recipes import make_recipe
from tests.data.test_lerobot import LENGTHS, REAL, VERSIONS


def test_each_episode_is_held_out_once(synthetic_root):
    sources = [make_recipe(synthetic_root, fold=(fold, 3)).mixture.sources[0] for fold in range(3)]
    held_out = [source.validation for source in sources]
    assert sorted(np.concatenate(held_out)) == list(range(len(sources[0].index)))
    assert min(map(len, held_out)) > 0
    for source in sources:
        assert not set(source.train) & set(source.validation)
        assert len(source.train) + len(source.validation) == len(source.index)


def test_a_fold_by_hand():
    assert fold_of(np.asarray([0.0, 0.33, 0.34, 0.5, 0.99]), 3).tolist() == [0, 0, 1, 1, 2]


def test_success_probabilities_by_hand():
    """Fold 1 is judged by fold 0, whose two episodes say 0 at .2 and 1 at .6; and the other way round.

    Fold 1's first episode has two steps, each of half its weight: at .3 a success and half a failure meet,
    which is 2/3; at .5 half a failure stands alone. Such a fall is levelled: 1 of 2.
    """
    q = [np.asarray([0.2]), np.asarray([0.6]), np.asarray([0.3, 0.5]), np.asarray([0.3])]
    success, fold = np.asarray([False, True, False, True]), np.asarray([0, 0, 1, 1])
    found = success_probabilities(q, success, fold)
    np.testing.assert_allclose(found[2], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(found[0], [0.5], rtol=1e-6)
    assert np.isnan(success_probabilities([np.asarray([0.5])], np.asarray([True]), np.asarray([0]))[0][0])


@pytest.fixture(scope="module")
def judged(trained):
    """A run that serves as the judge of both folds: where its values go is tested, not how good they are."""
    config = trained.copy_and_resolve_references()
    return Judge.load(config, datasets.entries(config))


def test_values_do_not_depend_on_the_cuts(judged, trained):
    """The same network, shown longer parts of the same episodes in smaller batches."""
    (source,) = judged.recipe.mixture.sources
    every = np.arange(len(source.index))
    found = judged.values(0, every)
    longer = dataclasses.replace(judged.recipe.cutting, length=9)
    other = dataclasses.replace(
        judged, recipe=dataclasses.replace(judged.recipe, cutting=longer), batch_size=3
    )
    again = other.values(0, every)
    for episode, length in enumerate(source.index.columns["length"]):
        assert found[episode].shape == (2, length) and np.isfinite(found[episode]).all()
        np.testing.assert_allclose(found[episode], again[episode], atol=2e-5)


@pytest.fixture(scope="module")
def scored(judged, tmp_path_factory):
    """The copy of a dataset, and what was said of it."""
    output = tmp_path_factory.mktemp("scored") / "copy"
    parts = Scored([judged, judged], "", str(output))
    assert parts.missing() == parts.look(0, 1) and not parts.missing()
    return Scored([judged, judged], "", str(output)).write(), output, parts


def records(path):
    """Yields each record of a dataset, parsed."""
    directory = directories.open_dataset(str(path))
    for number in range(len(directory.shards)):
        for _, record in directory.scan(number, ""):
            yield directory.parse(record)


def test_a_copy_has_the_values_and_all_that_it_had(scored, judged, dataset_path):
    said, output, _ = scored
    for own, copy in zip(records(dataset_path), records(output), strict=True):
        steps = copy["steps"]
        values = {name: steps.pop(name) for name in STEP_VALUES}
        assert sorted(own["steps"]) == sorted(steps)
        for name in ("action", "reward", "is_last"):
            np.testing.assert_array_equal(own["steps"][name], steps[name])
        assert own["episode_id"] == copy["episode_id"]
        for of_rows in values.values():
            assert np.isfinite(of_rows[:-1]).all() and np.isnan(of_rows[-1])  # which has no action
        np.testing.assert_allclose(values["advantage"], values["q"] - values["value"], rtol=1e-6)
    assert "AUC" in said and not (output.parent / "copy.values").exists()
    # Training reads the copy as it reads the original.
    config = datasets.select(None, str(output))
    config.data.cache = os.environ["QT_JAX_CACHE"]
    _, recipe, _ = setup.prepare(config, datasets.entries(config), any_returns=True)
    (copied,), (source,) = recipe.mixture.sources, judged.recipe.mixture.sources
    assert copied.index.fingerprint == source.index.fingerprint
    shown = shown_episodes.read(recipe, copied, 1)
    assert all(set(one.values) == set(STEP_VALUES) for one in shown)


def test_the_most_doubtful_label_comes_first(scored):
    _, output, _ = scored
    lines = [json.loads(line) for line in (output / "1.0.0/labels.jsonl").read_text().splitlines()]
    doubts = [abs(line["success"] - line["success_probability"]) for line in lines]
    assert len(lines) == 16 and doubts == sorted(doubts, reverse=True)


def test_processes_share_the_files(judged, tmp_path):
    (source,) = judged.recipe.mixture.sources
    files = len(source.directory.shards)
    first = Scored([judged, judged], "", str(tmp_path / "copy"))
    assert first.look(1, 2) == files // 2 and first.missing() == files - files // 2
    assert Scored([judged, judged], "", str(tmp_path / "copy")).look(0, 1) == files - files // 2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_lerobot_folder_gets_columns(version, tmp_path):
    root = tmp_path / "original"
    shutil.copytree(REAL / version, root)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    folder = open_folder(str(root))

    def values_of(shard, position, rows):
        return np.arange(rows) + 10.0 * position + 100.0 * np.arange(4, dtype=np.float32)[:, None]

    copy = lerobot.write(folder, values_of, str(tmp_path / "copy"), "")
    assert before == {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    for number, record in enumerate(records(copy)):
        assert record["steps"]["q"].tolist() == [10 * number + step for step in range(LENGTHS[number])]
        assert record["steps"]["success_probability"][0] == 300 + 10 * number
    for file in copy.rglob("*.mp4"):
        assert file.samefile(root / file.relative_to(copy))
    for file in copy.rglob("*.parquet"):
        if "data" in file.parts:
            known = json.loads(pq.read_schema(file).metadata[b"huggingface"])["info"]["features"]
            assert set(STEP_VALUES) <= set(known)
    with pytest.raises(UserError, match="exists; delete it"):
        lerobot.check(folder, str(copy))
    with pytest.raises(UserError, match=r"has columns \['advantage', 'q'"):
        lerobot.check(open_folder(str(copy)), str(tmp_path / "again"))


def test_what_cannot_be_scored(judged, scored, config, tmp_path):
    _, output, _ = scored
    with pytest.raises(UserError, match="exists; delete it"):
        Scored([judged, judged], "", str(output))
    with pytest.raises(UserError, match=r"--dataset is 'mine'; expected one of \['collected'\]"):
        Scored([judged, judged], "mine", str(tmp_path / "copy"))
    Scored([judged, judged], "", str(tmp_path / "copy"))
    with pytest.raises(UserError, match="values of other judges"):
        Scored([dataclasses.replace(judged, step=3), judged], "", str(tmp_path / "copy"))
    with pytest.raises(UserError, match="--part is '4/4'"):
        command._part("4/4")
    config.agent = qt_jax.agents.get("bc").get_config()
    with pytest.raises(UserError, match="take q_transformer or cql"):
        Judge.load(config, datasets.entries(config))


def test_a_fold_has_a_folder_of_its_own(config):
    own = judge.of_fold(config, 1, 2)
    assert own.workdir == f"{config.workdir}/fold_1_of_2" and own.data.fold == (1, 2)
    assert not checkpoints.finished(own) and not config.data.fold


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_the_command(dataset_path, tmp_path, frozen):
    flags = [f"--config.data.path={dataset_path}", f"--config.workdir={tmp_path}/run"]
    if frozen:
        flags += ["--config.model.encoder=efficientnet_lite0", "--config.model.frozen_encoder=True"]
        flags.append("--config.data.cache_features=True")
    assert "AUC" in run_command("score", *flags, f"--output={tmp_path}/copy").stdout
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["fold_0_of_2", "fold_1_of_2"]
