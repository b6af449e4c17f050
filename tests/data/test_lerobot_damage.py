"""LeRobot folders read where they lie, that are damaged: one line, with the place and the remedy."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from etils import epath

from qt_jax.curation import inspect
from qt_jax.curation.validate import validate
from qt_jax.data import lerobot_spec
from qt_jax.data.skips import Skips
from qt_jax.errors import UserError
from qt_jax.training import datasets
from tests.curation import recordings
from tests.data import recipes
from tests.data.test_lerobot import config_of, recipe, source


def rewrite(path, change):
    pq.write_table(change(pq.read_table(path)), path)


def spoil(root, what):
    """Spoils episode 2 of a folder of version 2.1."""
    rows, clip = (
        root / "data/chunk-001/episode_000002.parquet",
        root / "videos/chunk-001/observation.images.wrist/episode_000002.mp4",
    )
    if what == "rows missing":
        rows.unlink()
    elif what == "rows damaged":
        rows.write_bytes(rows.read_bytes()[:200])
    elif what == "fewer rows":
        rewrite(rows, lambda table: table.slice(0, 4))
    elif what == "no column":
        rewrite(rows, lambda table: table.drop(["observation.state"]))
    elif what == "video missing":
        clip.unlink()
    elif what == "video damaged":
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    elif what == "no video":
        clip.write_bytes(b"no video")
    elif what == "video short":
        recordings.video(clip, [recordings.frame(2, step, "wrist") for step in range(3)])
    elif what == "gap":
        recordings.edit_rows(root, "timestamp", lambda e, step, t: t + (e == 2 and step > 3))
    elif what == "fps":
        recordings.edit_rows(root, "timestamp", lambda e, step, t: t * (2 if e == 2 else 1))
    elif what == "tasks":
        recordings.edit_rows(root, "task_index", lambda e, step, task: int(step > 2) if e == 2 else task)
    elif what == "no text":
        recordings.edit_rows(root, "task_index", lambda e, step, task: 7 if e == 2 else task)
    elif what == "nan":
        recordings.edit_rows(
            root, "action", lambda e, step, value: [np.nan, 0] if (e, step) == (2, 1) else value
        )
    elif what == "dims":
        recordings.edit_rows(root, "action", lambda e, step, value: [0.0] if (e, step) == (2, 1) else value)


@pytest.mark.parametrize(
    "what, message",
    [
        ("rows missing", "its file .*episode_000002.parquet is missing; copy the dataset again"),
        ("rows damaged", "cannot be read .*; copy .*episode_000002.parquet again"),
        ("fewer rows", "has 4 rows, the metadata says 6; copy the dataset again"),
        ("no column", "has no column observation.state, expected as in meta/info.json; copy it again"),
        ("video missing", "its video .*wrist/episode_000002.mp4 is missing; copy the dataset again"),
        ("video damaged", "its video .*wrist/episode_000002.mp4 cannot be opened .*; copy the file again"),
        ("no video", "its video .*wrist/episode_000002.mp4 cannot be opened .*; copy the file again"),
        ("video short", "its video .* lasts 0.3 s, 6 rows at 10 fps last 0.6 s; copy the file again"),
        (
            "gap",
            "step 4: its timestamp is 1.4 s, 1.1 s after the one before, expected 0.1 s; `convert --cut=",
        ),
        (
            "tasks",
            "step 3: its task changes from 'open the drawer' to 'close the drawer', .*--cut=instruction",
        ),
        ("no text", "its task_index 7 has no text in the metadata; give one to all episodes: spec"),
        ("fps", "its rows are 0.2 s apart, meta/info.json says 10 fps; correct that file: 5 fps"),
        ("nan", "step 1: actions is not finite"),
        ("dims", "step 1: 'action' has 1 dims, meta/info.json says 2"),
    ],
)
def test_a_bad_episode_is_one_line_and_skipped_only_where_asked(lerobot_folder, what, message):
    root = lerobot_folder("v2.1-video")
    spoil(root, what)
    place = f"^{root}: data/chunk-001/episode_000002.parquet, episode 2[,:] ?"
    with pytest.raises(UserError, match=f"{place}.*{message}.*1 damaged of 3 .*max_skipped=0") as error:
        source(root)
    assert "\n" not in str(error.value)
    assert len(source(root, max_skipped=1).index) == 2


def test_damaged_frames_are_named_when_they_are_drawn(lerobot_folder, capsys):
    root = lerobot_folder("v2.1-video")
    name = "videos/chunk-001/observation.images.wrist/episode_000002.mp4"
    recordings.spoil_frames(root / name, first=True)
    made = recipe(root, max_skipped=1)
    iterator = recipes.make_iterator(made, batch_size=3, skips=Skips(made.mixture, 1))
    recipes.take(iterator, 2)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and iterator.skips.count == 1
    assert f"{root}: {name}, episode 2, step 0: image 'wrist' does not decode (1 damaged of 3" in said
    (text,) = inspect.inspect(made, epath.Path(root / "page"), 3, None)
    lines = [line for line in text.splitlines() if line.startswith("  damaged: ")]
    assert len(lines) == 1 and f"{root}: {name}, episode 2, step 0: image 'wrist': " in lines[0]
    strict = recipe(root)
    with pytest.raises(UserError, match=f"{name}, episode 2, step 0: image 'wrist' does not decode"):
        recipes.take(recipes.make_iterator(strict, batch_size=3), 2)


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "lost.png"}])
def test_an_image_that_is_not_there_is_named(lerobot_folder, image):
    root = lerobot_folder("v3.0-JPEG")
    key = "observation.images.front"
    recordings.edit_rows(root, key, lambda e, step, value: image if (e, step) == (1, 2) else value)
    with pytest.raises(UserError, match=f"episode 1, step 2: '{key}' holds no image; copy the dataset again"):
        source(root)


def test_what_cannot_be_opened_is_one_line(lerobot_folder):
    root = lerobot_folder("v3.0-JPEG")
    recordings.edit_info(root, codebase_version="v4.0")
    with pytest.raises(UserError, match="codebase_version 'v4.0'; expected v2.0, v2.1 or v3.0"):
        source(root)
    recordings.edit_info(root, codebase_version="v3.0")
    recordings.rename(root, "action", "torque")
    with pytest.raises(
        UserError, match=r"neither action nor actions .*name the action: spec\(PATH, action=KEY"
    ):
        source(root)
    with pytest.raises(UserError, match="success is 'done'; .* has .*'next.success'.* to choose from"):
        lerobot_spec.spec(str(root), action="torque", success="done")
    assert lerobot_spec.spec(str(root), action="torque", state=()).observation.state_dim == 0
    recordings.rename(root, "observation.state", "joint_position")
    named = (
        "no 'observation.state' among its vectors .*'joint_position'.*name the state: .* or state=.. for none"
    )
    with pytest.raises(UserError, match=named):
        lerobot_spec.spec(str(root), action="torque")
    spec = lerobot_spec.spec(str(root), action="torque", state=["joint_position"])
    assert spec.observation.state_dim == 3


def test_arguments_of_another_form(lerobot_folder):
    root = str(lerobot_folder("v3.0-JPEG"))
    for wrong in ({"state": "observation.state"}, {"cameras": ["observation.images.front"]}):
        with pytest.raises(UserError, match=r"expected state=\[KEY, ...\] and cameras=\{NAME: KEY\}"):
            lerobot_spec.spec(root, **wrong)


def test_info_of_another_form_is_one_line(lerobot_folder):
    root = lerobot_folder("v2.1-JPEG")
    info = json.loads((root / "meta/info.json").read_text())
    recordings.edit_info(root, features=info["features"] | {"action": {"dtype": "float32", "shape": None}})
    with pytest.raises(UserError, match="a feature that is not as LeRobot writes it"):
        source(root)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_info_that_counts_otherwise_than_what_is_listed(lerobot_folder, version):
    root = lerobot_folder(f"{version}-JPEG")
    recordings.edit_info(root, total_episodes=3, total_frames=15)
    assert len(source(root).index) == 3
    for changes, message in [
        ({"total_episodes": 2}, "lists 3 episodes, its info.json says 2; .* or correct total_episodes if"),
        ({"total_frames": 14}, "lists 15 frames, its info.json says 14; copy the dataset again, or"),
        ({"splits": {"train": "0:99"}}, "split train: '0:99', the last episode is 2; copy the dataset again"),
    ]:
        recordings.edit_info(root, **{"total_episodes": 3, "total_frames": 15} | changes)
        with pytest.raises(UserError, match=message):
            source(root)


def test_validate_names_what_is_wrong(lerobot_folder, tmp_path):
    root = lerobot_folder("v2.1-video")
    config = config_of(root)

    def report():
        (entry,) = datasets.entries(config)
        return validate(entry, config.data, tmp_path / "found.jsonl", "all", 9)

    count, text = report()
    assert count == 0 and "3 episodes, 10 steps, 26 images decoded" in text, text
    assert "not used: next.reward" in text
    path = root / "videos/chunk-001/observation.images.wrist/episode_000002.mp4"
    recordings.spoil_frames(path, first=True)
    spoil(root, "nan")
    count, text = report()
    assert "episode_000002.parquet, episode 2 (episode_000002), step 1: action is [nan, 0]" in text
    assert f"step 0: 'wrist' does not decode ({path} does not decode (InvalidDataError" in text
    spoil(root, "no video")
    count, text = report()
    assert count == 1 and "cannot be opened" in text


def test_columns_that_info_does_not_declare_are_named(lerobot_folder):
    root = lerobot_folder("v3.0-video")
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["next.reward"]
    recordings.edit_info(root, features=info["features"])
    told = "not used, since meta/info.json does not declare them: next.reward"
    assert told in lerobot_spec.spec(str(root)).notes


def cut_short(root):
    """Episode 1 has four rows, and three frames of the wrist's video."""
    recordings.shared_video(root, missing={(1, 3)})
    recordings.edit_clips(root, "to", lambda episode, at: at - 0.1 * (episode >= 1))
    recordings.edit_clips(root, "from", lambda episode, at: at - 0.1 * (episode >= 2))


SHORT = "its part of the video .*wrist.*mp4 lasts 0.3 s, 4 rows at 10 fps last 0.4 s; leave the episode out"


def test_an_episode_whose_part_of_a_shared_video_is_too_short(lerobot_folder):
    root = lerobot_folder("v3.0-video")
    cut_short(root)
    with pytest.raises(UserError, match=f"episode 1[,:] ?{SHORT}"):
        source(root)
    assert len(source(root, max_skipped=1).index) == 2


def test_frames_that_are_missing_in_a_shared_video_make_all_its_episodes_bad(lerobot_folder):
    """Nobody knows which frames they are, so any later row may show another moment."""
    root = lerobot_folder("v3.0-video")
    assert len(source(root).index) == 3  # kept for each Parquet file, of which there are two
    recordings.shared_video(root, missing={(0, 2), (0, 3)})
    message = (
        "ends at 1.3 s, its last episode at 1.5 s: frames are missing somewhere in it; copy the file again"
    )
    with pytest.raises(UserError, match=f"episode 0[,:].*{message}"):
        source(root)
    with pytest.raises(UserError, match="ends at 1.3 s"):
        source(root, max_skipped=2)


def test_parts_of_a_video_that_overlap(lerobot_folder):
    root = lerobot_folder("v3.0-video")
    recordings.edit_clips(root, "from", lambda episode, at: 0.5 if episode == 2 else at)
    message = (
        "the clips of 'observation.images.wrist' overlap: episode 1 ends at 0.9 s, episode 2 begins at 0.5 s"
    )
    with pytest.raises(UserError, match=message):
        source(root)
