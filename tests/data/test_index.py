"""An index is made again when what it depends on changed, and not when anything else did."""

import dataclasses
import functools
import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest

from qt_jax.data import indexing, tables
from qt_jax.data.standardisers import collected, fractal_arm
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training import setup
from tests.data.recipes import NUMBERS, make_config, make_recipe
from tests.data.synthetic import LENGTHS


@pytest.fixture
def root(synthetic_root, tmp_path, monkeypatch):
    """The numbered dataset and a cache of this test alone."""
    monkeypatch.setenv("QT_JAX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(f"{synthetic_root}/numbers_tfrecord", tmp_path / "numbers_tfrecord")
    return tmp_path


@pytest.fixture
def passes(monkeypatch):
    """Of each pass over the data: what was done, and to how many shards."""
    found, of_shards = [], indexing._of_shards

    def counted(directory, workers, function, shards):
        found.append((function.func.__name__, len(shards)))
        return of_shards(directory, workers, function, shards)

    monkeypatch.setattr(indexing, "_of_shards", counted)
    return found


SCAN = ("_scan", 3)


def test_a_second_start_reads_the_index_and_not_the_data(root, passes):
    first, second = make_recipe(root), make_recipe(root)
    assert passes == [SCAN]
    one, other = (recipe.mixture.sources[0].index for recipe in (first, second))
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name])
    assert one.statistics == other.statistics and one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "spec, data",
    [
        ({}, dict(max_skipped=3)),
        ({}, dict(bins=8, action_bounds="quantiles")),
        ({}, dict(validation_fraction=0.5, segment_length=7, episodes="successes")),
        (dict(action=ActionSpec(("y",), (-1.0,), (9.0,), (5,)), achieves={"odd": ("even",)}), {}),
        (dict(observation=ObservationSpec((), (8, 8), 2, "other words")), {}),
    ],
)
def test_settings_that_change_no_episode_leave_it(root, passes, spec, data):
    make_recipe(root)
    make_recipe(root, spec=dataclasses.replace(NUMBERS, **spec), **data)
    assert passes == [SCAN]


@pytest.mark.parametrize(
    "spec, data",
    [
        ({}, dict(step_penalty=0.125)),
        (dict(reward="stored"), {}),
        (dict(dt=None), {}),
        (dict(expected_dt={"even": 0.1, "odd": 0.1}), {}),
        ({}, dict(text_encoder="tests.data.test_index:encoder")),
    ],
)
def test_settings_that_change_episodes_make_it_again(root, passes, spec, data):
    make_recipe(root)
    make_recipe(root, spec=dataclasses.replace(NUMBERS, **spec), **data)
    assert passes == [SCAN] * 2


def encoder(sentence):
    return np.float32([len(sentence), 1])


def shards_of(root):
    return sorted((root / "numbers_tfrecord").glob("*/*-of-*"))


def test_a_touched_file_is_read_and_not_parsed_again(root, passes):
    make_recipe(root)
    os.utime(shards_of(root)[1])
    make_recipe(root)
    assert passes == [SCAN, ("_content", 1)]
    make_recipe(root)
    assert len(passes) == 2, "its new time is known"


def test_a_copy_elsewhere_uses_the_same_index(root, passes, tmp_path):
    make_recipe(root)
    copy = tmp_path / "copy" / "numbers_tfrecord"
    shutil.copytree(root / "numbers_tfrecord", copy, copy_function=shutil.copyfile)
    make_recipe(tmp_path / "copy")
    assert passes == [SCAN, ("_content", 3)]


def test_records_that_changed_make_it_again_though_names_and_sizes_are_the_same(root, passes):
    make_recipe(root)
    second = shards_of(root)[1]
    sound = second.read_bytes()
    second.write_bytes(sound[:40] + bytes([sound[40] ^ 0xFF]) + sound[41:])
    with pytest.raises(UserError, match="wrong checksum"):
        make_recipe(root)
    assert len(make_recipe(root, max_skipped=1).mixture.sources[0].index) == 23
    assert passes == [SCAN, ("_content", 1), ("_scan", 1), ("_content", 1), ("_scan", 0)]
    with pytest.raises(UserError, match=r"1 damaged of 24 episodes; config.data.max_skipped=0"):
        make_recipe(root)
    assert len(passes) == 5, "what is known of the damage needs no pass"
    second.write_bytes(sound)
    assert len(make_recipe(root).mixture.sources[0].index) == 24


def test_a_file_that_cannot_be_opened_is_no_damage_and_is_named(root):
    second = shards_of(root)[1]
    second.unlink()
    second.mkdir()
    with pytest.raises(UserError, match=rf"^{second} cannot be opened \(IsADirectoryError: .*\); mend"):
        make_recipe(root, max_skipped=24)


def test_an_index_cut_short_is_made_again(root, passes):
    make_recipe(root)
    for content in (slice(100), slice(0)):
        for file in (root / "cache" / "index").rglob("*.npz"):
            file.write_bytes(file.read_bytes()[content])
        make_recipe(root)
    assert passes == [SCAN] * 3


def with_shards(root, files, folder):
    """A dataset of these of the three files, as a dataset that grows has them: the count is in each name."""
    new = folder / "numbers_tfrecord/1.0.0"
    shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    for file in files:
        shutil.copy2(file, new / file.name.replace("of-00003", f"of-{len(files):05d}"))
    for file in files[0].parent.glob("*.json"):
        shutil.copy(file, new)
    info = json.loads((new / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = info["splits"][0]["shardLengths"][: len(files)]
    (new / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_of_a_dataset_that_grew_the_new_file_alone_is_read(root, passes, monkeypatch, tmp_path):
    files = shards_of(root)
    make_recipe(with_shards(root, files[:2], tmp_path / "grown"))
    grown = make_recipe(with_shards(root, files, tmp_path / "grown")).mixture.sources[0].index
    assert passes == [("_scan", 2), ("_scan", 1)]
    monkeypatch.setenv("QT_JAX_CACHE", str(tmp_path / "other"))
    fresh = make_recipe(tmp_path / "grown").mixture.sources[0].index
    assert passes[2:] == [SCAN] and grown.to_bytes() == fresh.to_bytes()


def test_a_pass_that_was_killed_goes_on_after_the_files_that_it_finished(root, monkeypatch):
    scan, scanned = indexing._scan, []

    def killed(*arguments):
        scanned.append(arguments[-1])
        if len(scanned) == 3:
            raise KeyboardInterrupt
        return scan(*arguments)

    monkeypatch.setattr(indexing, "_scan", killed)
    with pytest.raises(KeyboardInterrupt):
        make_recipe(root)
    make_recipe(root)
    assert scanned == [0, 1, 2, 2]


TABLES = """
import dataclasses, lab_units
from qt_jax.data.standardisers import collected
from tests.data.recipes import NUMBERS
FACTOR = 1.0

def turned(raw):
    raw.action = raw.action * FACTOR * lab_units.scale(1)
    return raw

def mine(episode):
    'Reads an episode.'
    return turned(collected(episode))

def theirs(episode):
    return None

SPECS = {{"numbers": dataclasses.replace(NUMBERS, path="{root}/numbers_tfrecord", standardise=mine)}}
"""
UNITS = "def scale(x):\n    return x\n\ndef other(x):\n    return -x\n"


@pytest.mark.parametrize(
    "in_tables, in_units, again",
    [
        (("return None", "return episode"), None, False),  # another standardiser of the same file
        (("def mine(episode):\n    'Reads", "# mine\n\ndef mine(episode):\n    'Gives"), None, False),
        (("SPECS = ", "MORE = dict(lab=dict(numbers=1))\nSPECS = "), None, False),
        (None, ("return -x", "return 2 * x"), False),
        (("turned(collected(episode))", "collected(episode)"), None, True),
        (("raw.action * FACTOR", "raw.action / FACTOR"), None, True),  # what it calls
        (("FACTOR = 1.0", "FACTOR = 0.5"), None, True),
        (None, ("return x", "return x / 2"), True),  # in another file
    ],
)
def test_code_that_reads_the_episodes_makes_it_again_and_no_other(
    root, passes, monkeypatch, in_tables, in_units, again
):
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(tables_text, units_text):
        (root / "lab_units.py").write_text(units_text)
        (root / "lab_tables.py").write_text(tables_text.format(root=root))
        sys.modules.pop("lab_units", None)
        importlib.invalidate_caches()
        config = make_config(tables=str(root / "lab_tables.py"), mixture="numbers")
        setup.prepare(config, tables.resolve(config.data, {}))

    load(TABLES, UNITS)
    load(TABLES.replace(*in_tables) if in_tables else TABLES, UNITS.replace(*in_units) if in_units else UNITS)
    for name in ("lab_units", "lab_tables"):
        sys.modules.pop(name, None)
    assert passes == [SCAN] * (1 + again)


def test_statistics_of_the_whole_dataset(synthetic_root):
    statistics = make_recipe(synthetic_root).mixture.sources[0].index.statistics
    states = np.concatenate([[(e, t) for t in range(n + 1)] for e, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(statistics["state"].mean, states.mean(0))
    np.testing.assert_allclose(statistics["state"].std, states.std(0))
    np.testing.assert_allclose(statistics["state"].high, states.max(0))


def test_a_damaged_record_is_an_error_or_a_counted_skip(synthetic_root, tmp_path):
    shutil.copytree(f"{synthetic_root}/numbers_tfrecord", tmp_path / "numbers_tfrecord")
    (shard,) = (tmp_path / "numbers_tfrecord").glob("*/*00001-of*")
    content = bytearray(shard.read_bytes())
    content[40] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(
        UserError,
        match=r"00001-of-00003, episode 0: has a wrong checksum \(1 damaged of 24 episodes; .*max_skipped=0",
    ):
        make_recipe(tmp_path)
    recipe = make_recipe(tmp_path, max_skipped=1)
    assert len(recipe.mixture.sources[0].index) == 23
    assert "1 damaged episodes are skipped, the first: " in setup.describe(recipe)


def no_such_key(episode):
    return collected({**episode, "steps": {}})


@pytest.mark.parametrize(
    "standardise, message",
    [
        (no_such_key, "has no key 'observation', which no_such_key reads"),
        (functools.partial(no_such_key), "has no key 'observation', which no_such_key reads"),
        (fractal_arm, "is not what fractal_arm reads .IndexError"),
    ],
)
def test_data_of_another_layout_is_named(synthetic_root, standardise, message):
    with pytest.raises(UserError, match=f"numbers_tfrecord.*episode 0: {message}"):
        make_recipe(synthetic_root, spec=dataclasses.replace(NUMBERS, standardise=standardise))
