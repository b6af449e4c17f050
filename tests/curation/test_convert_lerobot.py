"""LeRobot folders as people have them.

What is not as it should be is used all the same, or refused by name before anything is written.
"""

import io
import json
import pickle
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qt_jax.curation import convert
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.test_convert import all_of, shown, source, unused

VERSIONS = ("v2.0", "v2.1", "v3.0")
ROWS = ("frame_index", "index")
"""Features that number the rows, which stand in their order."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("lerobot")
    for version in VERSIONS:
        recordings.lerobot(root / version, version=version, kind="JPEG")
    for version in ("v2.1", "v3.0"):
        recordings.lerobot(root / f"{version}-video", version=version, kind="video")
    return root


@pytest.fixture
def folder(kept, tmp_path):
    """{name: a copy to spoil}."""
    return lambda name: shutil.copytree(kept / name, tmp_path / name)


def lengths(opened):
    return [len(episode.actions) for episode in all_of(opened)]


def names(opened):
    return [episode.index for episode in all_of(opened)]


@pytest.mark.parametrize("version", VERSIONS)
def test_bounds_are_of_the_data_whatever_its_statistics_say(folder, version):
    root = folder(version)
    right = source(root, "lerobot").action
    for text in (
        "{",
        json.dumps({"observation.state": {}}),
        json.dumps({"action": {"min": [0, 0], "max": [0.1, 0.1]}}),
    ):
        (root / "meta/stats.json").write_text(text)
        (root / "meta/episodes_stats.jsonl").write_text(text)
        assert source(root, "lerobot").action == right


@pytest.mark.parametrize("version", VERSIONS)
def test_openpis_layout(folder, version):
    root = folder(version)
    renamed = {"action": "actions", "observation.state": "state", "observation.images.front": "image"}
    for old, new in (renamed | {"observation.images.wrist": "wrist_image"}).items():
        recordings.rename(root, old, new)
    for flags in ({}, {"action": "actions", "state": ("state",)}):
        opened = source(root, "lerobot", **flags)
        assert opened.observation.cameras == ("image", "wrist_image") and opened.observation.state_dim == 3
        np.testing.assert_array_equal(all_of(opened)[0].actions, recordings.vectors(0)[1][:-1])


def test_a_state_elsewhere_is_asked_for(folder):
    root = folder("v2.1")
    recordings.rename(root, "observation.state", "joints")
    with pytest.raises(
        UserError,
        match=r"has no 'observation.state'; give --state=KEY, of \['joints'\], or --state= for none",
    ):
        source(root, "lerobot")
    assert source(root, "lerobot", state=("joints",)).observation.state_dim == 3
    assert set(unused(source(root, "lerobot", state=()))) == {"joints", "next.reward", *ROWS}


def test_two_keys_of_an_action_are_asked_for(folder):
    root = folder("v2.1")
    recordings.rename(root, "next.reward", "actions")
    with pytest.raises(UserError, match="both 'action' and 'actions'; give --action=action or"):
        source(root, "lerobot")
    with pytest.raises(UserError, match="expected 'torque' among them; give --action=KEY"):
        source(root, "lerobot", action="torque")


@pytest.mark.parametrize(
    "keys, cameras",
    [
        (("observation.images.left.rgb", "observation.images.right.rgb"), ("left_rgb", "right_rgb")),
        (("observation.images.front", "observation.images.left.front"), ("images_front", "left_front")),
        (("observation.images.top", "observation.images.state"), ("top", "images_state")),
    ],
)
def test_cameras_whose_names_end_alike(folder, keys, cameras):
    root = folder("v2.1")
    for old, new in zip(recordings.CAMERAS, keys):
        recordings.rename(root, old, new)
    opened = source(root, "lerobot")
    assert opened.observation.cameras == tuple(sorted(cameras))
    images = all_of(opened)[0].images
    for camera, recorded in zip(cameras, recordings.CAMERAS.values()):
        np.testing.assert_allclose(shown(images[camera][:1])[0], recordings.frame(0, 0, recorded), atol=8)


IMAGE = {"dtype": "image", "names": ["height", "width", "channels"]}


@pytest.mark.parametrize(
    "key, feature, why",
    [
        (
            "observation.images.range",
            {**IMAGE, "shape": [48, 64, 1], "info": {"video.is_depth_map": True}},
            "depth",
        ),
        ("observation.images.top_depth", {**IMAGE, "shape": [48, 64, 1]}, "depth"),
        (
            "observation.images.stack",
            {**IMAGE, "shape": [48, 64, 6]},
            "of shape .*expected 1, 3 or 4 channels",
        ),
    ],
)
def test_images_that_cannot_be_used_are_refused_by_name(tmp_path, key, feature, why):
    root = recordings.lerobot(tmp_path / "in", features={key: feature})
    short = key.rsplit(".", 1)[-1]
    with pytest.raises(
        UserError,
        match=rf"images that cannot be used: '{short}' \({why}\); leave them out with --cameras=front,wrist",
    ):
        source(root, "lerobot")
    with pytest.raises(UserError, match=f"has '{short}', {why}; leave it out"):
        source(root, "lerobot", cameras=("front", short))
    assert set(unused(source(root, "lerobot", cameras=("front", "wrist")))) == {"next.reward", key, *ROWS}


@pytest.mark.parametrize(
    "shape, names", [([48, 64, 1], None), ([3, 48, 64], None), ([3, 48, 64], ["channel", "height", "width"])]
)
def test_grey_and_channel_first(folder, shape, names):
    root = folder("v2.1")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.front"] |= {"shape": shape, "names": names}
    recordings.edit_info(root, features=features)
    assert source(root, "lerobot").observation.image_size == (48, 64)


@pytest.mark.parametrize(
    "mode, kind",
    [("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")],
)
def test_stored_images_of_any_mode(folder, mode, kind):
    root = folder("v2.1")
    stored, picture = io.BytesIO(), Image.fromarray(recordings.frame(0, 0, "front")).convert(mode)
    picture.save(stored, kind, **({} if kind == "PNG" else {"quality": 95}))
    recordings.edit_rows(
        root, "observation.images.front", lambda *row: {**row[2], "bytes": stored.getvalue()}
    )
    frame = shown(all_of(source(root, "lerobot"))[0].images["front"])[0]
    np.testing.assert_allclose(frame, np.asarray(picture.convert("RGB")), atol=20)


def test_sixteen_bits_are_not_cut_off(folder):
    root = folder("v2.1")
    stored = io.BytesIO()
    Image.fromarray(np.full(recordings.SIZE, 1500, np.uint16)).save(stored, "PNG")
    recordings.edit_rows(
        root, "observation.images.front", lambda *row: {**row[2], "bytes": stored.getvalue()}
    )
    with pytest.raises(
        UserError, match="episode 0, step 0, camera 'front': an image has more than 8 bits a pixel"
    ):
        all_of(source(root, "lerobot"))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_gap_in_the_timestamps(folder, version):
    root = folder(f"{version}-video")
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


def test_a_timestamp_that_is_none(folder):
    root = folder("v2.1")
    recordings.edit_rows(
        root, "timestamp", lambda episode, step, at: np.nan if (episode, step) == (2, 3) else at
    )
    with pytest.raises(UserError, match="episode 2, step 3: its timestamp is no number; mend the file"):
        source(root, "lerobot")


def test_timestamps_of_another_rate_and_a_wider_tolerance(folder):
    root = folder("v2.1")
    recordings.edit_rows(root, "timestamp", lambda episode, step, at: at + 0.03 * (step % 2))
    with pytest.raises(UserError, match="episode 0, step 1: its timestamp is 0.13 s"):
        source(root, "lerobot")
    assert lengths(source(root, "lerobot", tolerance_s=0.04)) == [4, 3, 3]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_of_twice_the_rate(folder, version):
    root = folder(f"{version}-video")
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


def test_a_video_longer_than_its_rows_is_noted(folder):
    root = folder("v2.1-video")
    frames = [recordings.frame(0, step % 5, "front") for step in range(9)]
    recordings.video(root / "videos/chunk-000/observation.images.front/episode_000000.mp4", frames)
    notes = []
    opened = source(root, "lerobot")
    first, *_ = convert.episodes(opened, opened.units, notes)
    np.testing.assert_allclose(shown(first.images["front"]), frames[:5], atol=16)
    longer, ended = notes
    assert "episode 0: the video of 'front' lasts 0.9 s, the rows end at 0.4 s" in longer
    assert "episode 2: 2 actions after its success, at step 2, are not used" in ended


@pytest.mark.parametrize(
    "codec, pixels", [("libx264", "yuv420p10le"), ("libvpx-vp9", "yuv420p"), ("ffv1", "gray16le")]
)
def test_pixels_of_any_depth(folder, codec, pixels):
    """Ten bits of a colour are cut to eight; sixteen of grey are depth, which is refused."""
    root = folder("v2.1-video")
    frames = [recordings.frame(0, step, "front") for step in range(5)]
    path = root / "videos/chunk-000/observation.images.front/episode_000000.mp4"
    recordings.video(path.with_suffix(".mkv"), frames, codec=codec, pixels=pixels)
    path.with_suffix(".mkv").rename(path)
    opened = source(root, "lerobot", max_skipped=1)
    first, *_ = all_of(opened)
    if pixels == "gray16le":
        assert "has more than 8 bits a pixel (gray16le), as depth has" in opened.skips.lines()[1]
    else:
        np.testing.assert_allclose(shown(first.images["front"]), frames, atol=16)


def test_damage_that_the_decoder_finds_is_reported(folder):
    root = folder("v2.1-video")
    path = root / "videos/chunk-001/observation.images.front/episode_000002.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = (start + content.index(b"moov")) // 2
    content[middle : middle + 40] = bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"episode 2, step \d, camera 'front': .*000002.mp4 does not decode \("
    ):
        all_of(source(root, "lerobot"))
    opened = source(root, "lerobot", max_skipped=1)
    assert names(opened) == [0, 1] and "episode 2, step" in opened.skips.lines()[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_task_in_an_episode(folder, version):
    root = folder(version)
    recordings.edit_rows(
        root, "task_index", lambda episode, step, task: 1 if episode == 0 and step >= 2 else task
    )
    with pytest.raises(
        UserError, match="episode 0, step 2: its task changes from 'open the drawer' to 'close the drawer'"
    ):
        source(root, "lerobot")
    opened = source(root, "lerobot", cut=("instruction",))
    first, second, *others = all_of(opened)
    assert (first.instruction, second.instruction) == recordings.TASKS and len(others) == 2
    state, actions = recordings.vectors(0)
    np.testing.assert_array_equal(first.actions, actions[:2])
    np.testing.assert_array_equal(first.state, state[:3])  # its o_T is the next row's
    np.testing.assert_array_equal(second.actions, actions[2:4])
    assert not first.success and second.success
    assert names(opened) == [0, 1, 2, 3]
    assert lengths(source(root, "lerobot", instruction="tidy up")) == [4, 3, 3]


@pytest.mark.parametrize("version", VERSIONS)
def test_blank_tasks(folder, version):
    root = folder(version)
    recordings.edit_rows(root, "task_index", lambda episode, step, task: 7 if episode == 1 else task)
    with pytest.raises(
        UserError, match="task_index 7, to which the metadata has no text; .*--fallback_instruction for those"
    ):
        source(root, "lerobot")
    opened = source(root, "lerobot", max_skipped=1)
    assert lengths(opened) == [4, 3] and opened.skips.lines()[0] == "1 episodes left out:"
    episodes = all_of(source(root, "lerobot", fallback_instruction="tidy up"))
    texts = [episode.instruction for episode in episodes]
    assert texts == ["open the drawer", "tidy up", "open the drawer"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "column, what",
    [("action", "action\\[1\\]"), ("observation.state", "state\\[1\\]"), ("next.reward", "reward\\[0\\]")],
)
def test_numbers_that_are_none_are_named(folder, version, column, what):
    root = folder(version)

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


@pytest.mark.parametrize("version", VERSIONS)
def test_splits(folder, version):
    root = folder(version)
    recordings.edit_info(root, splits={"train": "0:2", "val": "2:3"})
    with pytest.raises(
        UserError, match=r"has splits train \(2\), val \(1\) of its 3 episodes; give --split=train, another"
    ):
        source(root, "lerobot")
    assert lengths(source(root, "lerobot", split="train")) == [4, 3]
    opened = source(root, "lerobot", split="val")
    assert lengths(opened) == [3] and unused(opened)[-1] == "split train"
    assert opened.action != source(root, "lerobot", split="all").action
    with pytest.raises(UserError, match=r"--split is 'test'; .* has splits train \(2\), val \(1\), and no"):
        source(root, "lerobot", split="test")
    recordings.edit_info(root, splits={"train": "0:3", "test": "3:3"})
    with pytest.raises(UserError, match="the part that --split names holds no episode"):
        source(root, "lerobot", split="test")
    recordings.edit_info(root, splits={"train": "most of it"})
    with pytest.raises(UserError, match="has the split train: 'most of it'; expected a range such as '0:40'"):
        source(root, "lerobot")


def test_a_false_start(folder):
    root = folder("v2.1")
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    listed = root / "meta/episodes.jsonl"
    listed.write_text(listed.read_text().replace('"length": 4', '"length": 1'))
    with pytest.raises(
        UserError,
        match="episode 1 has 1 actions and 1 observations; a transition needs two.* --max_skipped=N",
    ):
        source(root, "lerobot")
    assert lengths(source(root, "lerobot", max_skipped=1)) == [4, 3]


def test_a_frame_of_another_size_and_one_cut_off(folder):
    root = folder("v3.0")
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
        names(opened) == [2]
        and "episode 0, step 3, camera 'wrist': the image does not decode" in opened.skips.lines()[1]
    )
    with pytest.raises(UserError, match="It is bad episode 2, --max_skipped is 1"):
        all_of(source(root, "lerobot", max_skipped=1))


def test_bad_files_are_counted_by_their_episodes(folder):
    root = folder("v3.0")
    path = root / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:200])
    opened = source(root, "lerobot", max_skipped=2)
    assert names(opened) == [0] and [line.count("cannot be read") for line in opened.skips.lines()] == [
        0,
        1,
        1,
    ]
    with pytest.raises(UserError, match="no episode is left"):
        path.with_name("file-001.parquet").unlink()
        source(root, "lerobot", max_skipped=9)


def test_other_machines_get_all_that_they_need(folder):
    root = folder("v3.0")
    units = pickle.loads(pickle.dumps(source(root, "lerobot").units))
    read = pickle.loads(pickle.dumps(convert.strictly(source(root, "lerobot"))))
    assert [index for unit in units for index, _ in read(unit)] == [0, 1, 2]
    recordings.edit_rows(root, "observation.images.front", lambda *row: {**row[2], "bytes": b"no image"})
    with pytest.raises(UserError, match="episode 0, step 0, camera 'front': the image does not decode"):
        list(read(units[0]))


def test_a_missing_column_is_no_damage(folder):
    root = folder("v2.1")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    recordings.edit_info(
        root, features=features | {"observation.force": {"dtype": "float32", "shape": [2], "names": None}}
    )
    with pytest.raises(
        UserError, match="episode 0 has no column observation.force, expected as in meta/info.json"
    ):
        source(root, "lerobot", state=("observation.force",))


FLOATS = {"dtype": "float32", "shape": None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fps": None}, "lr/meta is not as LeRobot writes it .TypeError: float.. argument"),
        ({"fps": "ten"}, "lr/meta is not as LeRobot writes it .ValueError: could not convert"),
        ({"features": None}, "lr/meta is not as LeRobot writes it"),
        ({"chunks_size": 0}, "lr/meta is not as LeRobot writes it"),
        ({"splits": ["train"]}, "lr/meta is not as LeRobot writes it"),
        ({"features": {"action": FLOATS | {"shape": [2]}}}, r"no observation that is used, of \['action"),
        ({"features": {"action": FLOATS, "state": FLOATS}}, "a feature that is not as LeRobot writes it"),
        ({"splits": {"train": "0:-1"}}, "lr has splits train .0. of its 3 episodes"),
        ({"splits": {"train": "0:2", "val": "2:3"}}, r"splits train \(2\), val \(1\) of its 3"),
        ({"splits": {"train": "0:3", "val": "3:3"}}, ""),
    ],
)
def test_metadata_of_another_form_is_one_line(tmp_path, changes, message):
    root = recordings.lerobot(tmp_path / "lr")
    recordings.edit_info(root, **changes)
    if message:
        with pytest.raises(UserError, match=message):
            source(root, "lerobot")
    else:
        assert source(root, "lerobot").episodes == 3


@pytest.mark.parametrize("value, size", [(None, 0), ([1.0], 1), ([1.0] * 3, 3)])
def test_a_row_of_other_dims_is_named_with_its_step(folder, value, size):
    root = folder("v2.1")

    def there(episode, step, row):
        return value if (episode, step) == (1, 2) else row

    recordings.edit_rows(root, "action", there)
    with pytest.raises(UserError, match=f"episode 1, step 2: 'action' has {size} dims, meta/info.json says"):
        source(root, "lerobot")
    assert source(root, "lerobot", max_skipped=1).episodes == 2


def test_a_state_of_other_dims_than_the_metadata_says(folder):
    root = folder("v2.1")
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"shape": [3], "names": ["x"', '"shape": [7], "names": ["x"'))
    with pytest.raises(UserError, match="episode 0, step 0: 'observation.state' has 3 dims, .* says 7"):
        source(root, "lerobot")


def test_an_outlier_is_named_with_its_place(folder):
    root = folder("v2.1")
    recordings.edit_rows(
        root,
        "action",
        lambda episode, step, value: [1000.0, value[1]] if (episode, step) == (1, 2) else value,
    )
    (warning,) = source(root, "lerobot").notes
    said = "episode_000001.parquet: episode 1, step 2: action 'shoulder' has an outlier, 1000: nearly all"
    assert said in warning and "1 of 256 bins" in warning
    assert "config.data.action_bounds=quantiles" in warning


def test_images_that_are_not_there_are_missed_before_anything_is_written(folder):
    root = folder("v2.1")
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).drop(["observation.images.wrist"]), path)
    with pytest.raises(UserError, match="episode 1 has no column observation.images.wrist"):
        source(root, "lerobot")
    root = folder("v2.1-video")
    (root / "videos/chunk-001/observation.images.wrist/episode_000002.mp4").unlink()
    with pytest.raises(UserError, match="episode 2: .*wrist/episode_000002.mp4 is missing; copy the dataset"):
        source(root, "lerobot")
