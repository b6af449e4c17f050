"""Recordings of other tools, converted by the command and read by TFDS, value by value."""

import dataclasses
import errno
import functools
import json
import re
import shutil

import numpy as np
import pytest

from qt_jax import text
from qt_jax.curation.convert import bounds, recording, skips
from qt_jax.data import described
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.opened import all_of, run, shown, source


def expect(episode, number, length, camera, source_camera, atol):
    """The first `length` transitions of a recording."""
    state, action = recordings.vectors(number)
    success = recordings.SOLVED[number] is not None
    np.testing.assert_array_equal(episode.actions, action[:length])
    np.testing.assert_array_equal(episode.state, state[: length + 1])
    np.testing.assert_array_equal(episode.rewards, [*np.zeros(length - 1), float(success)])
    frames = [recordings.frame(number, step, source_camera) for step in range(length + 1)]
    np.testing.assert_allclose(shown(episode.images[camera]), np.stack(frames), atol=atol)
    assert episode.success == success and episode.dt == 1 / recordings.FPS


@pytest.mark.parametrize(
    "version, kind, atol",
    [
        ("v2.1", "JPEG", 8),
        ("v2.0", "PNG", 8),
        ("v2.1", "video", 16),
        ("v3.0", "PNG", 8),
        ("v3.0", "video", 16),
    ],
)
def test_lerobot(tmp_path, version, kind, atol):
    opened = source(recordings.lerobot(tmp_path, version=version, kind=kind), "lerobot")
    actions = np.concatenate([recordings.vectors(i)[1] for i in range(3)])
    assert opened.action.names == ("shoulder", "gripper")
    found = np.float32([opened.action.low, opened.action.high])
    np.testing.assert_array_equal(found, [actions.min(0), actions.max(0)])
    episodes = all_of(opened)
    lengths = (4, 3, 3)  # the third ends at its success
    for number, (episode, length) in enumerate(zip(episodes, lengths, strict=True)):
        for camera in ("front", "wrist"):
            expect(episode, number, length, camera, camera, atol)
        assert episode.instruction == recordings.TASKS[number % 2]
        identity = (episode.task, episode.collector, episode.index)
        assert identity == (episode.instruction, "demonstration", number)
    if kind == "JPEG":
        assert episodes[0].images["front"][1] == recordings.encoded(recordings.frame(0, 1, "front"), "JPEG")


@pytest.mark.parametrize("next_obs", [True, False])
def test_robomimic(tmp_path, next_obs):
    episodes = all_of(source(recordings.robomimic(tmp_path, next_obs=next_obs), "hdf5"))
    assert [e.task for e in episodes] == ["open the drawer", "open the drawer", "close the drawer"]
    lengths = (5, 3, 4) if next_obs else (4, 3, 3)
    for episode, number, length in zip(episodes, (0, 2, 1), lengths, strict=True):
        if length < recordings.LENGTHS[number]:
            expect(episode, number, length, "front_image", "front", 8)
            continue
        state, action = recordings.vectors(number)
        np.testing.assert_array_equal(episode.actions, action)
        np.testing.assert_array_equal(episode.state, [*state, state[0]])  # next_obs wraps around at the end
        (last,) = shown(episode.images["front_image"][-1:])
        np.testing.assert_allclose(last, recordings.frame(number, 0, "front"), atol=8)


@pytest.mark.parametrize(
    "make, kind, file_format",
    [
        (recordings.lerobot, "lerobot", "array_record"),
        (lambda root: recordings.lerobot(root, version="v3.0", kind="video"), "lerobot", "array_record"),
        (recordings.robomimic, "hdf5", "tfrecord"),
    ],
)
def test_the_command_writes_all_of_it(tmp_path, make, kind, file_format):
    folder = make(tmp_path / "recorded")
    result = run(
        f"--input={folder}",
        f"--format={kind}",
        f"--output={tmp_path}/converted",
        f"--file_format={file_format}",
    )
    assert result.returncode == 0 and "3 episodes" in result.stdout, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"recorded", "converted"}
    opened = source(folder, kind)
    written, metadata = read(tmp_path / "converted")
    assert metadata["reward"] == "success"
    assert metadata["action"] == {
        name: list(getattr(opened.action, name)) for name in ("names", "low", "high")
    }
    for example, episode in zip(written, all_of(opened), strict=True):
        assert_holds(example, episode)


def test_a_dataset_with_stored_rewards_says_so_and_what_it_leaves_out(tmp_path):
    folder = recordings.lerobot(tmp_path / "recorded")

    def spoil(episode, step, image):
        return {**image, "bytes": b"none"} if (episode, step) == (1, 2) else image

    recordings.edit_rows(folder, "observation.images.wrist", spoil)
    flags = (
        "--success=none",
        "--reward=next.reward",
        "--instruction=tidy up",
        "--cameras=wrist",
        "--max_skipped=1",
    )
    result = run(f"--input={folder}", "--format=lerobot", f"--output={tmp_path}/converted", *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"^  next.success  +bool 1  +not used: --reward or --success may name it$",
        result.stdout,
        re.MULTILINE,
    )
    assert re.search(r"^  next.reward  +float32 1  +the reward$", result.stdout, re.MULTILINE)
    *_, count, bad = result.stdout.splitlines()
    assert "converted/1.0.0: 2 episodes\n" in result.stdout and count == "1 episodes left out:"
    assert "episode_000001.parquet: episode 1, step 2, camera 'wrist': the image does not decode" in bad
    assert described.spec(str(tmp_path / "converted")).reward == "stored"


def read(path):
    """Returns a dataset's episodes as TFDS parses them, with their steps stacked, and its metadata."""
    import tensorflow_datasets as tfds
    from grain.experimental import TFRecordIterDataset

    builder = tfds.builder_from_directory(str(path / "1.0.0"))
    undecoded = {"steps": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        source = builder.as_data_source(split="train", decoders=undecoded)
        return [source[i] for i in range(len(source))], builder.info.metadata
    files = builder.info.splits["train"].filepaths
    records = [record for file in files for record in TFRecordIterDataset(str(file))]
    parse = functools.partial(builder.info.features.deserialize_example_np, decoders=undecoded)
    return list(map(parse, records)), builder.info.metadata


def assert_holds(example, episode):
    """Asserts that a written example is `episode`, in the layout that `collect` writes too."""
    steps, length = example["steps"], len(episode.actions)
    last, success = np.arange(length + 1) == length, episode.success
    for key, expected in {
        "action": [*episode.actions, np.zeros_like(episode.actions[0])],
        "reward": [*episode.rewards, 0],
        "discount": np.where(np.arange(length + 1) >= length - 1, float(not success), 1.0),
        "is_first": np.arange(length + 1) == 0,
        "is_last": last,
        "is_terminal": last & success,
    }.items():
        np.testing.assert_array_equal(steps[key], expected, key)
    observation = dict(steps["observation"])
    np.testing.assert_array_equal(observation.pop("state"), episode.state)
    assert {name: list(frames) for name, frames in observation.items()} == episode.images
    expected = f"{episode.task}/{episode.collector}/{episode.index:06d}"
    assert example["episode_id"].decode() == episode.episode_id == expected
    assert example["instruction"].decode() == episode.instruction and example["success"] == success
    np.testing.assert_array_equal(example["instruction_embedding"], text.embed(episode.instruction))
    assert example["dt"] == np.float32(episode.dt)


def test_one_episode_a_file_with_its_last_observation(tmp_path):
    opened = source(
        recordings.one_episode_a_file(tmp_path), "hdf5", success="all", instruction="pour the tea"
    )
    for number, episode in enumerate(all_of(opened)):
        state, action = recordings.vectors(number)
        np.testing.assert_array_equal(episode.actions, action[:-1])
        np.testing.assert_array_equal(episode.state, state)
        assert episode.success and episode.rewards[-1] == 1 and episode.task == "pour the tea"


def test_flags_choose_what_is_kept(tmp_path):
    folder = recordings.lerobot(tmp_path / "recorded")
    opened = source(
        folder,
        "lerobot",
        success="none",
        reward="next.reward",
        instruction="tidy up",
        cameras=("wrist",),
        image_size=(24, 32),
    )
    first = all_of(opened)[0]
    assert opened.observation.cameras == ("wrist",) and opened.observation.image_size == (24, 32)
    assert shown(first.images["wrist"]).shape == (5, 24, 32, 3) and first.instruction == "tidy up"
    # The last has the reward of the action that was given up, too.
    np.testing.assert_array_equal(first.rewards, [0.25, 0.5, 0.75, 1.0 + 1.25])
    assert not first.success
    state_only = source(folder, "lerobot", cameras=())
    assert state_only.observation.cameras == () and all_of(state_only)[0].images == {}


def test_no_success_key_asks_for_a_flag(tmp_path):
    folder = recordings.lerobot(tmp_path / "recorded")
    info = json.loads((folder / "meta/info.json").read_text())
    del info["features"]["next.success"]
    (folder / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="has no 'next.success' to tell success by; give --success=all"):
        source(folder, "lerobot")


def test_a_dim_that_never_moves_has_a_range():
    seen = bounds.Bounds(["x", "y"])
    seen.add("r", np.float32([[1, -1], [1, 1]]), np.zeros((2, 0)))
    spec = seen.spec()
    assert spec.low == (0, -1) and spec.high == (2, 1)


SHORT = recording.Recording("r", "go", {}, np.zeros((1, 2)), np.zeros((1, 2)), False, None, 0.1)


def test_different_instructions_are_different_tasks():
    texts = ["rotate 90", "rotate -90", "rotate +90", "Rotate 90", "rotate  90", "rotate 9/0", "!", "?"]
    texts += ["把红色方块放到A", "把蓝色方块放到A"]
    long = dataclasses.replace(SHORT, state=np.zeros((2, 2)))
    recorded = [dataclasses.replace(long, instruction=text) for text in texts]
    assert len({recording.finish(one, 0, "demonstration").task for one in recorded}) == len(texts)


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "1 actions and 1 observations; a transition needs two"),
        ({"state": np.zeros((4, 2))}, "expected 1 or 2 of each"),
    ],
)
def test_observations_and_actions_must_belong_together(change, message):
    with pytest.raises(UserError, match=message):
        recording.finish(dataclasses.replace(SHORT, **change), 0, "demonstration")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    recordings.lerobot(root / "lerobot", kind="video")
    recordings.lerobot(root / "v3", version="v3.0")
    recordings.robomimic(root / "hdf5")
    (root / "empty").mkdir()
    return root


def edited(name, old, new):
    def edit(folder):
        (folder / name).write_text((folder / name).read_text().replace(old, new))

    return edit


def cut(name):
    def edit(folder):
        (file,) = folder.glob(name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return edit


def no_instruction(folder):
    import h5py

    with h5py.File(folder / "part_0.hdf5", "a") as file:
        del file["data"].attrs["language_instruction"]


def another_video(folder):
    videos = folder / "videos/chunk-000/observation.images.front"
    shutil.copy(videos / "episode_000001.mp4", videos / "episode_000000.mp4")


def no_frequency(folder):
    import h5py

    with h5py.File(folder / "part_0.hdf5", "a") as file:
        del file["data"].attrs["env_args"]


@pytest.mark.parametrize(
    "folder, edit, flags, message",
    [
        ("empty", None, {"format": "hdf5"}, "holds no file"),
        ("empty", None, {"format": "lerobot"}, "holds no meta/info.json; expected a LeRobot dataset"),
        ("lerobot", None, {"format": "rosbag"}, "--format is 'rosbag'; expected one of"),
        ("lerobot", None, {"cameras": ("top",)}, "has no 'top'; expected some of \\['front', 'wrist'\\]"),
        ("lerobot", None, {"state": ("observation.force",)}, "has no 'observation.force'"),
        ("lerobot", None, {"success": "won"}, "--success is 'won', which is no column of one number"),
        ("lerobot", None, {"reward": "none"}, "--reward is 'none', which is no column of one number"),
        ("lerobot", None, {"success": "next.reward"}, "next.reward goes from 0.25 to 1.25 in several steps"),
        ("lerobot", None, {"fps": 5.0}, "--fps is 5; leave it out"),
        ("lerobot", edited("meta/info.json", "v2.1", "v1.6"), {},
         "codebase_version 'v1.6'; expected v2.0, v2.1 or v3.0"),
        ("lerobot", edited("meta/info.json", '"fps"', '"hz"'), {}, "meta lacks 'fps'"),
        ("lerobot", edited("meta/info.json", '"action"', '"act"'), {}, "expected 'action' among them"),
        ("lerobot", edited("meta/info.json", "{", "", ), {}, "info.json does not parse"),
        ("lerobot", lambda folder: (folder / "meta/tasks.jsonl").unlink(), {}, "tasks.jsonl is missing"),
        ("lerobot", lambda folder: (folder / "meta/tasks.jsonl").write_text("{"), {},
         "tasks.jsonl does not parse"),
        ("lerobot", lambda folder: (folder / "meta/episodes.jsonl").write_text(""), {},
         "meta lists 0 episodes, its info.json says 3; copy"),
        ("lerobot", edited("meta/tasks.jsonl", "open the drawer", ""), {},
         "task_index 0, to which the metadata has no text"),
        ("lerobot", edited("meta/episodes.jsonl", '"length": 6', '"length": 9'), {},
         "episode 2 has 6 frames, the metadata says 9"),
        ("lerobot", cut("data/*/episode_000001.parquet"), {},
         "episode_000001.parquet: episode 1 cannot be read .* is damaged"),
        ("lerobot", cut("videos/*/observation.images.wrist/episode_000002.mp4"), {},
         "episode 2: its video .*000002.mp4 cannot be opened .Invalid data found"),
        ("lerobot", another_video, {}, "000000.mp4 has no frame within 0.01 s of 0.4 s"),
        ("v3", cut("meta/tasks.parquet"), {}, "meta cannot be read"),
        ("v3", cut("data/*/file-001.parquet"), {}, "file-001.parquet: episode 2 cannot be read"),
        ("hdf5", cut("part_1.hdf5"), {}, "part_1.hdf5 cannot be read"),
        ("hdf5", no_instruction, {}, "part_0.hdf5: data/demo_2 has no instruction"),
        ("hdf5", no_frequency, {}, "does not say how fast it was recorded"),
        ("hdf5", None, {"cameras": ("side",)}, "has no 'side'; expected some of \\['front_image'\\]"),
        ("hdf5", None, {"success": "next.success"}, "--success is 'next.success'"),
    ],
)  # fmt: skip
def test_error_lines(folders, tmp_path, folder, edit, flags, message):
    copy = tmp_path / folder
    shutil.copytree(folders / folder, copy)
    if edit:
        edit(copy)
    with pytest.raises(UserError, match=message) as error:
        all_of(source(copy, flags.pop("format", "hdf5" if folder == "hdf5" else "lerobot"), **flags))
    assert "\n" not in str(error.value)


GIVEN = ("--input=x", "--format=lerobot", "--output=y")


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--input is missing"),
        ([*GIVEN, "--image_size=3"], "--image_size is '3'; expected HEIGHT,WIDTH"),
        ([*GIVEN, "--runner=beam"], "Apache Beam is not installed; run `pip install"),
        (["--format=bag"], "value should be one of <hdf5|lerobot|ogbench>"),
    ],
)
def test_the_commands_error_lines(flags, message):
    result = run(*flags)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("qt_jax convert:")]
    assert message in line


def test_what_is_no_damage_is_not_called_so():
    denied = skips.unreadable(PermissionError(13, "Permission denied"))
    assert "PermissionError" in denied and denied.endswith("give this account the right to read it.")
    for error in (MemoryError(), OSError(errno.EMFILE, "Too many open files")):
        with pytest.raises(type(error)):  # and no episode is skipped for it
            skips.Skips(9).attempt("e.hdf5", lambda error=error: skips.unreadable(error))


def test_notes_and_bad_episodes_for_people():
    notes = [f"e{i}.hdf5, step {i}: 0.{i} s" for i in range(12)]
    assert skips.grouped([*notes, "not used: x"]) == [
        "e0.hdf5, step 0: 0.0 s (and 11 more like it)",
        "not used: x",
    ]
    counted = skips.Skips(12)
    for note in notes:
        counted.add(UserError(note))
    assert counted.lines()[0] == "12 episodes left out:" and counted.lines()[-1] == "  and 2 more"
    with pytest.raises(UserError, match="^one more. It is bad episode 13, --max_skipped is 12.$"):
        counted.add(UserError("one more."))
