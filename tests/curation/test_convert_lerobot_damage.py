"""LeRobot folders that are damaged or disagree with themselves: named in one line, with the place."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from qt_jax.curation import convert
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.opened import all_of, lengths_of, names_of, shown, source
from tests.curation.recordings import VERSIONS
from tests.data import test_lerobot_damage


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_gap_in_the_timestamps(lerobot_folder, version):
    root = lerobot_folder(f"{version}-video")
    recordings.edit_rows(root, "timestamp", lambda episode, step, at: at + 0.1 * (episode == 0 and step >= 3))
    with pytest.raises(
        UserError,
        match="episode 0, step 3: its timestamp is 0.4 s, 0.2 s after the one before; expected 0.1 s at 10",
    ):
        source(root, "lerobot")
    if version != "v3.0":  # whose video goes on into the next episode
        return
    opened = source(root, "lerobot", cut=("gap",))
    pieces = [(piece.start, piece.stop) for unit in opened.units for piece in unit]
    assert pieces == [(0, 3), (3, 5), (0, 4), (0, 6)]
    first, second = all_of(opened)[:2]
    np.testing.assert_array_equal(second.actions, recordings.vectors(0)[1][3:4])
    assert not first.success and second.success
    # A frame later, as the timestamps say.
    expected = [recordings.frame(0, 4, "front"), recordings.frame(1, 0, "front")]
    np.testing.assert_allclose(shown(second.images["front"]), expected, atol=16)


def test_a_timestamp_that_is_none(lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.edit_rows(
        root, "timestamp", lambda episode, step, at: np.nan if (episode, step) == (2, 3) else at
    )
    with pytest.raises(UserError, match="episode 2, step 3: its timestamp is no number; mend the file"):
        source(root, "lerobot")


def test_timestamps_of_another_rate_and_a_wider_tolerance(lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.edit_rows(root, "timestamp", lambda episode, step, at: at + 0.03 * (step % 2))
    with pytest.raises(UserError, match="episode 0, step 1: its timestamp is 0.13 s"):
        source(root, "lerobot")
    assert lengths_of(source(root, "lerobot", tolerance_s=0.04)) == [4, 3, 3]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_of_twice_the_rate(lerobot_folder, version):
    root = lerobot_folder(f"{version}-video")
    for path in sorted(root.glob("videos/**/*.mp4")):
        episodes = range(3) if version == "v3.0" else [int(path.stem[-1])]
        camera = "wrist" if "wrist" in str(path) else "front"
        frames = [
            recordings.frame(i, step, camera) for i in episodes for step in range(recordings.LENGTHS[i])
        ]
        recordings.video(
            path, [image for frame in frames for image in (frame, frame // 2)], fps=2 * recordings.FPS
        )
    for number, episode in enumerate(all_of(source(root, "lerobot"))):
        expected = [recordings.frame(number, step, "front") for step in range(len(episode.actions) + 1)]
        np.testing.assert_allclose(shown(episode.images["front"]), expected, atol=16)


def test_a_video_longer_than_its_rows_is_noted(lerobot_folder):
    root = lerobot_folder("v2.1-video")
    frames = [recordings.frame(0, step % 5, "front") for step in range(9)]
    recordings.video(root / "videos/chunk-000/observation.images.front/episode_000000.mp4", frames)
    notes = []
    opened = source(root, "lerobot")
    first, *_ = convert.episodes(opened, opened.units, notes)
    np.testing.assert_allclose(shown(first.images["front"]), frames[:5], atol=16)
    longer, ended = notes
    assert "episode 0: the video of 'front' lasts 0.9 s, the rows end at 0.4 s" in longer
    assert "episode 2: 2 actions after its success, at step 2, are not used" in ended


def test_damage_that_the_decoder_finds_is_reported(lerobot_folder):
    root = lerobot_folder("v2.1-video")
    recordings.spoil_frames(root / "videos/chunk-001/observation.images.front/episode_000002.mp4")
    with pytest.raises(
        UserError, match=r"episode 2, step \d, camera 'front': .*000002.mp4 does not decode \("
    ):
        all_of(source(root, "lerobot"))
    opened = source(root, "lerobot", max_skipped=1)
    assert names_of(opened) == [0, 1] and "episode 2, step" in opened.skips.lines()[1]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "column, what",
    [("action", "action\\[1\\]"), ("observation.state", "state\\[1\\]"), ("next.reward", "reward\\[0\\]")],
)
def test_numbers_that_are_none_are_named(lerobot_folder, version, column, what):
    root = lerobot_folder(version)

    def spoiled(value):
        return [value[0], np.nan, *value[2:]] if isinstance(value, list) else np.nan

    recordings.edit_rows(
        root, column, lambda episode, step, value: spoiled(value) if (episode, step) == (1, 2) else value
    )
    flags = {"success": "none", "reward": "next.reward"} if column == "next.reward" else {}
    file = "file-000" if version == "v3.0" else "episode_000001"
    with pytest.raises(
        UserError,
        match=f"{file}.parquet: episode 1, step 2: {what} is nan",
    ):
        source(root, "lerobot", **flags)
    opened = source(root, "lerobot", max_skipped=1, **flags)
    assert opened.episodes == 2 and np.isfinite([opened.action.low, opened.action.high]).all()


def test_a_false_start(lerobot_folder):
    root = lerobot_folder("v2.1")
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    listed = root / "meta/episodes.jsonl"
    listed.write_text(listed.read_text().replace('"length": 4', '"length": 1'))
    with pytest.raises(
        UserError,
        match="episode 1 has 1 actions and 1 observations; a transition needs two.* --max_skipped=N",
    ):
        source(root, "lerobot")
    assert lengths_of(source(root, "lerobot", max_skipped=1)) == [4, 3]


def test_a_frame_of_another_size_and_one_cut_off(lerobot_folder):
    root = lerobot_folder("v3.0")
    other = recordings.encoded(np.zeros((40, 40, 3), np.uint8), "PNG")

    def spoil(episode, step, image):
        return {**image, "bytes": other} if (episode, step) == (1, 2) else image

    recordings.edit_rows(root, "observation.images.front", spoil)
    with pytest.raises(
        UserError,
        match="episode 1, step 2, camera 'front': an image is 40x40, expected 48x64; give --image_size",
    ) as error:
        all_of(source(root, "lerobot"))
    assert "--max_skipped=N" in str(error.value)

    def cut_off(episode, step, image):
        return {**image, "bytes": image["bytes"][:-300]} if (episode, step) == (0, 3) else image

    recordings.edit_rows(root, "observation.images.wrist", cut_off)
    opened = source(root, "lerobot", max_skipped=2)
    assert (
        names_of(opened) == [2]
        and "episode 0, step 3, camera 'wrist': the image does not decode" in opened.skips.lines()[1]
    )
    with pytest.raises(UserError, match="It is bad episode 2, --max_skipped is 1"):
        all_of(source(root, "lerobot", max_skipped=1))


def test_bad_files_are_counted_by_their_episodes(lerobot_folder):
    root = lerobot_folder("v3.0")
    path = root / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:200])
    opened = source(root, "lerobot", max_skipped=2)
    assert names_of(opened) == [0] and [line.count("cannot be read") for line in opened.skips.lines()] == [
        0,
        1,
        1,
    ]
    with pytest.raises(UserError, match="no episode is left"):
        path.with_name("file-001.parquet").unlink()
        source(root, "lerobot", max_skipped=9)


def test_a_missing_column_is_no_damage(lerobot_folder):
    root = lerobot_folder("v2.1")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    recordings.edit_info(
        root, features=features | {"observation.force": {"dtype": "float32", "shape": [2], "names": None}}
    )
    with pytest.raises(
        UserError, match="episode 0 has no column observation.force, expected as in meta/info.json"
    ):
        source(root, "lerobot", state=("observation.force",))


@pytest.mark.parametrize("value, size", [(None, 0), ([1.0], 1), ([1.0] * 3, 3)])
def test_a_row_of_other_dims_is_named_with_its_step(lerobot_folder, value, size):
    root = lerobot_folder("v2.1")

    def there(episode, step, row):
        return value if (episode, step) == (1, 2) else row

    recordings.edit_rows(root, "action", there)
    with pytest.raises(UserError, match=f"episode 1, step 2: 'action' has {size} dims, meta/info.json says"):
        source(root, "lerobot")
    assert source(root, "lerobot", max_skipped=1).episodes == 2


def test_a_state_of_other_dims_than_the_metadata_says(lerobot_folder):
    root = lerobot_folder("v2.1")
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"shape": [3], "names": ["x"', '"shape": [7], "names": ["x"'))
    with pytest.raises(UserError, match="episode 0, step 0: 'observation.state' has 3 dims, .* says 7"):
        source(root, "lerobot")


def test_an_outlier_is_named_with_its_place(lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.edit_rows(
        root,
        "action",
        lambda episode, step, value: [1000.0, value[1]] if (episode, step) == (1, 2) else value,
    )
    (warning,) = source(root, "lerobot").notes
    said = "episode_000001.parquet: episode 1, step 2: action 'shoulder' has an outlier, 1000: nearly all"
    assert said in warning and "1 of 256 bins" in warning
    assert "config.data.action_bounds=quantiles" in warning


def test_images_that_are_not_there_are_missed_before_anything_is_written(lerobot_folder):
    root = lerobot_folder("v2.1")
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).drop(["observation.images.wrist"]), path)
    with pytest.raises(UserError, match="episode 1 has no column observation.images.wrist"):
        source(root, "lerobot")
    root = lerobot_folder("v2.1-video")
    (root / "videos/chunk-001/observation.images.wrist/episode_000002.mp4").unlink()
    with pytest.raises(UserError, match="episode 2: .*wrist/episode_000002.mp4 is missing; copy the dataset"):
        source(root, "lerobot")


def test_an_episode_whose_part_of_a_shared_video_is_too_short(lerobot_folder):
    root = lerobot_folder("v3.0-video")
    test_lerobot_damage.cut_short(root)
    with pytest.raises(UserError, match=f"episode 1: {test_lerobot_damage.SHORT}"):
        source(root, "lerobot")
    assert lengths_of(source(root, "lerobot", cameras=("front",))) == [4, 3, 3]
    assert names_of(source(root, "lerobot", max_skipped=1)) == [0, 1]


def test_a_part_of_a_shared_video_that_is_longer_than_its_rows_is_noted(lerobot_folder):
    root = lerobot_folder("v3.0-video")
    recordings.edit_clips(root, "to", lambda episode, at: at + 0.5 * (episode == 2))
    recordings.video(
        root / "videos/observation.images.wrist/chunk-000/file-000.mp4",
        [recordings.frame(0, step % 5, "wrist") for step in range(20)],
    )
    notes = []
    opened = source(root, "lerobot")
    list(convert.episodes(opened, opened.units, notes))
    assert any("episode 2: the video of 'wrist' lasts 1.1 s, the rows end at 0.5 s" in note for note in notes)
