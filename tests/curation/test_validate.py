"""On real files each violation is reported where it is, and nothing where there is none."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from qt_jax.curation import conventions
from qt_jax.curation.validate import Validator
from qt_jax.data import episodes, index, records, standardisers, tables
from qt_jax.data.specs import DatasetSpec
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.text import ENCODER
from tests import tiny
from tests.conftest import ROOT, run_command
from tests.data import broken
from tests.data.broken import BREAKS
from tests.data.recipes import NUMBERS

NAMES = list(BREAKS)
_ACTION = ActionSpec(("x", "gripper"), (-1.0, 0.0), (1.0, 1.0), (256, 2))


@pytest.fixture(scope="module")
def broken_root(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("broken"))
    script = f"from tests.data import broken; broken.main({root!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


def spec(root, **changes):
    image_size = (broken.SIZE, broken.SIZE)
    standard = DatasetSpec(
        path=f"{root}/broken",
        standardise=standardisers.collected,
        action=_ACTION,
        observation=ObservationSpec(("front",), image_size, 2, "test"),
        last_record="observation",
        reward="success",
        dt=None,
        expected_dt={"push": 0.1},
    )
    return dataclasses.replace(standard, **changes)


def look(chosen, images="all", **settings):
    """Violations and the validator after its pass."""
    directory, settings = records.open_directory(chosen.path), dict(threads=2, cache="") | settings
    embedding_used = index.stored_encoder(directory, chosen) == ENCODER
    validator = Validator(directory, chosen, images, embedding_used, **settings)
    return list(validator.violations(lambda: None)), validator


def of(violations, name):
    return [(v.kind, v.step) for v in violations if v.episode == NAMES.index(name)]


def test_each_violation_with_its_episode_and_step(broken_root):
    violations, validator = look(spec(broken_root))
    for name, (_, expected) in BREAKS.items():
        assert of(violations, name) == expected, name
    assert all(v.episode_id == NAMES[v.episode] for v in violations)
    assert {v.shard for v in violations} == {"broken-train.tfrecord-00000-of-00001"}
    text = {v.episode_id: v.text for v in violations}
    assert text["reward at the arrival"].startswith(
        "is 1 at the last record, which holds o_T alone; expected at record 3"
    )
    assert text["image of another size"] == "'front' is 16 x 20, the spec says 16 x 16"
    assert text["another time"] == "is 0.2 s, expected 0.1 s"
    assert "holds episodes of fly" in text["unknown task"]


def test_bounds_and_shaped_rewards_are_worth_a_look(broken_root):
    _, validator = look(spec(broken_root), images="none")
    episodes = len(BREAKS) - 1  # one has no transition
    assert validator.episodes == len(BREAKS) and validator.steps == episodes * broken.LENGTH
    assert validator.decoded == 0
    share = 1 / (episodes * broken.LENGTH)
    assert [line for line in validator.warnings() if "duplicates" not in line] == [
        f"action x: {share:.2%} below its bound -1, {share:.2%} above 1; they go to the edge bins",
        "1 episodes have rewards other than 0 and 1, which the spec's reward='success' ignores",
    ]


def test_duplicates_are_counted_and_leakage_into_validation_is_reported(broken_root):
    """Most episodes differ from the sound one in a flag or a reward: the robot saw and did the same."""
    _, validator = look(spec(broken_root), images="none", validation_fraction=0.5)
    counted, *rest = [line for line in validator.warnings() if "duplicates" in line]
    place = "broken-train.tfrecord-00000-of-00001, episode"
    assert re.match(
        rf"(\d+) episodes are duplicates of \d others .*: {place} 1 \(a sound failure\) is {place} 0 \(sound",
        counted,
    )
    (across,) = (line for line in rest if "the other side" in line)
    held = {name: episodes.id_hash(name) < 0.5 for name in BREAKS}
    elsewhere = [name for name, side in held.items() if side != held["sound"]]
    assert len(elsewhere) - 6 < int(across.split()[0]) <= len(elsewhere)
    assert int(counted.split()[0]) < len(BREAKS) - 3


@pytest.mark.parametrize(
    "texts, step",
    [
        ([b"open it"] * 3, None),
        ([b"open it", b"open it", b""], None),
        ([b"open it", b"open it", b"close it"], 2),
        (np.asarray([[1, 2, 0], [1, 3, 0]], np.int32), 1),
    ],
)
def test_where_an_instruction_changes(texts, step):
    texts = np.asarray(texts, object) if isinstance(texts, list) else texts
    for steps in ({"language_instruction": texts}, {"observation": {"instruction": texts}, "reward": texts}):
        assert conventions.instruction_change({"steps": steps}) == step


def test_an_instruction_that_changes_is_worth_a_look(synthetic_root, monkeypatch):
    monkeypatch.setattr(conventions, "instruction_change", lambda example: 2)
    numbers = dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord")
    violations, validator = look(numbers, images="none")
    (line,) = [line for line in validator.warnings() if "the instruction changes" in line]
    assert not violations and re.search(r"episode 0.*, step 2: .*, the first is used, and \d+ more", line)


def test_a_bound_far_from_all_actions_is_worth_a_look(synthetic_root):
    """Actions of `numbers` lie in [0, 1]."""
    wide = ActionSpec(("x",), (0.0,), (1000.0,), (256,))
    _, validator = look(dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord", action=wide))
    assert validator.warnings() == [
        "action 'x' has the bound 1000, far from all values: nearly all values lie in [0.02, 0.86], 1 of 256 "
        "bins; mend the data or the bound, or set config.data.action_bounds=quantiles"
    ]


def test_only_the_first_images(broken_root):
    violations, validator = look(spec(broken_root), images="first")
    assert [v.episode_id for v in violations if v.kind == "image"] == ["no image"]
    assert validator.decoded == len(BREAKS) - 1


@pytest.mark.parametrize(
    "changes, expected",
    [
        # o_T is no transition, and the reward stands before it.
        (dict(last_record="transition"), [("last_record", 4), ("reward", 3)]),
        (dict(reward="stored", reward_at="arrival"), [("reward", 3)]),
        (dict(action=ActionSpec(("x",), (-1.0,), (1.0,), (8,))), [("shape", None)]),
        (dict(observation=ObservationSpec(("front",), (16, 16), 3, "")), [("shape", None)]),
        (dict(observation=ObservationSpec(("wrist",), (16, 16), 2, "")), [("shape", None)]),
        (dict(observation=ObservationSpec(("front",), (8, 8), 2, "")), [("image", t) for t in range(5)]),
        (dict(standardise=standardisers.language_table), [("key", None)]),
    ],
)
def test_a_spec_that_the_dataset_contradicts(broken_root, changes, expected):
    assert of(look(spec(broken_root, **changes))[0], "sound") == expected


def test_a_standardiser_that_fails(broken_root):
    def cut(_):
        raise IndexError("of nothing")

    violations, _ = look(spec(broken_root, standardise=cut))
    assert [v.kind for v in violations] == ["key"] * len(BREAKS)
    assert violations[0].text == "cut fails on it (IndexError: of nothing)"


@pytest.mark.parametrize(
    "name, episodes, left_out, decoded",
    [("fractal_arm", 9, 0, 90), ("bridge_v2", 6, 1, 40), ("language_table", 4, 0, 36)],
)
def test_public_layouts_are_clean(synthetic_root, name, episodes, left_out, decoded):
    config = tiny.get_config()
    config.data.root, config.data.mixture = synthetic_root, name
    (entry,) = tables.resolve(config.data, {})
    violations, validator = look(entry.spec)
    assert violations == [] and (validator.episodes, validator.left_out, validator.decoded) == (
        episodes,
        left_out,
        decoded,
    )


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_damaged_files(synthetic_root, tmp_path, file_format):
    """A record's bytes, then a file's end; the rest is read."""
    numbers = dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_{file_format}", dt=None)
    violations, validator = look(numbers)
    assert violations == [] and validator.episodes == 24 and validator.steps == sum(range(1, 25))
    copy = tmp_path / "numbers"
    shutil.copytree(numbers.path, copy)
    first, second, _ = records.open_directory(str(copy)).shards
    flip(first.path, 2000)
    cut(second.path, second.size - 3 if file_format == "tfrecord" else second.size // 2)
    damaged, short = look(dataclasses.replace(numbers, path=str(copy)))[0]
    assert (damaged.kind, damaged.shard, short.kind, short.shard, short.episode) == (
        "record",
        first.name,
        "shard",
        second.name,
        None,
    )
    if file_format == "tfrecord":
        starts = [position for position, _ in records.scan(first, "")]
        assert damaged.episode == np.searchsorted(starts, 2000) - 1 and damaged.text == "has a wrong checksum"
        assert short.text == "ends within record 7 of 8"


def flip(path, place):
    data = bytearray(epath.Path(path).read_bytes())
    data[place] ^= 0xFF
    epath.Path(path).write_bytes(data)


def cut(path, size):
    epath.Path(path).write_bytes(epath.Path(path).read_bytes()[:size])


def run(*arguments):
    return run_command("validate", *arguments, check=False, config="")


def test_the_command(broken_root, dataset_path, tmp_path):
    """A collected dataset is clean (status 0), a broken one is not (status 1).

    The first violation of each kind is printed, and all are in the file.
    """
    result = run_command("validate", f"--config.data.path={dataset_path}", f"--output={tmp_path}")
    assert "no violation" in result.stdout and (tmp_path / "collected.jsonl").read_text() == ""
    assert "no violation" in run(f"--data={dataset_path}", f"--output={tmp_path}").stdout
    (tmp_path / "lab.py").write_text(
        f"from tests.curation.test_validate import spec\nSPECS = {{'lab': spec({broken_root!r})}}"
    )
    overrides = [
        f"--config.data.tables={tmp_path / 'lab.py'}",
        "--dataset=lab",
        f"--output={tmp_path}",
        "--limit=1",
    ]
    result = run_command("validate", *overrides, check=False)
    assert result.returncode == 1
    number, shard = NAMES.index("is_first missing"), "broken-train.tfrecord-00000-of-00001"
    place = f"{shard}, episode {number} (is_first missing), step 0"
    assert (
        "  is_first: 2 (not set at exactly the first record)\n"
        f"    {place}: is False at the first record\n"
        "    ... 1 more\n"
    ) in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "lab.jsonl").read_text().splitlines()]
    assert len(lines) == sum(len(expected) for _, expected in BREAKS.values())
    assert lines[0] == {
        "dataset": "lab",
        "kind": "is_first",
        "shard": shard,
        "text": "is False at the first record",
        "episode": number,
        "episode_id": "is_first missing",
        "step": 0,
    }


@pytest.mark.parametrize(
    "arguments", [(), ("--config=tests/tiny.py", "--data=x"), ("--data=x", "--dataset=y")]
)
def test_the_commands_errors(arguments):
    result = run(*arguments)
    assert result.returncode == 2 and re.fullmatch("qt_jax validate: Give --config=FILE .*\n", result.stderr)
