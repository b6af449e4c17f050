"""LeRobot folders as people have them.

What is not as it should be is used all the same, or refused by name before anything is written.
"""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from qt_jax.curation import convert
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.opened import all_of, lengths_of, names_of, shown, source, unused
from tests.curation.recordings import VERSIONS

ROWS = ("frame_index", "index")
"""Features that number the rows, which stand in their order."""


@pytest.mark.parametrize("version", VERSIONS)
def test_bounds_are_of_the_data_whatever_its_statistics_say(lerobot_folder, version):
    root = lerobot_folder(version)
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
def test_openpis_layout(lerobot_folder, version):
    root = lerobot_folder(version)
    renamed = {"action": "actions", "observation.state": "state", "observation.images.front": "image"}
    for old, new in (renamed | {"observation.images.wrist": "wrist_image"}).items():
        recordings.rename(root, old, new)
    for flags in ({}, {"action": ("actions",), "state": ("state",)}):
        opened = source(root, "lerobot", **flags)
        assert opened.observation.cameras == ("image", "wrist_image") and opened.observation.state_dim == 3
        np.testing.assert_array_equal(all_of(opened)[0].actions, recordings.vectors(0)[1][:-1])


def test_a_state_elsewhere_is_asked_for(lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.rename(root, "observation.state", "joints")
    with pytest.raises(
        UserError,
        match=r"has no 'observation.state'; give --state=KEY, of \['joints'\], or --state= for none",
    ):
        source(root, "lerobot")
    assert source(root, "lerobot", state=("joints",)).observation.state_dim == 3
    assert set(unused(source(root, "lerobot", state=()))) == {"joints", "next.reward", *ROWS}


def test_two_keys_of_an_action_are_asked_for(lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.rename(root, "next.reward", "actions")
    with pytest.raises(UserError, match="both 'action' and 'actions'; give --action=action or"):
        source(root, "lerobot")
    with pytest.raises(UserError, match="expected 'torque' among them; give --action=KEY"):
        source(root, "lerobot", action=("torque",))


@pytest.mark.parametrize(
    "keys, cameras",
    [
        (("observation.images.left.rgb", "observation.images.right.rgb"), ("left_rgb", "right_rgb")),
        (("observation.images.front", "observation.images.left.front"), ("images_front", "left_front")),
        (("observation.images.top", "observation.images.state"), ("top", "images_state")),
    ],
)
def test_cameras_whose_names_end_alike(lerobot_folder, keys, cameras):
    root = lerobot_folder("v2.1")
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
def test_grey_and_channel_first(lerobot_folder, shape, names):
    root = lerobot_folder("v2.1")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.front"] |= {"shape": shape, "names": names}
    recordings.edit_info(root, features=features)
    assert source(root, "lerobot").observation.image_size == (48, 64)


@pytest.mark.parametrize(
    "mode, kind",
    [("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")],
)
def test_stored_images_of_any_mode(lerobot_folder, mode, kind):
    root = lerobot_folder("v2.1")
    stored, picture = io.BytesIO(), Image.fromarray(recordings.frame(0, 0, "front")).convert(mode)
    picture.save(stored, kind, **({} if kind == "PNG" else {"quality": 95}))
    recordings.edit_rows(
        root, "observation.images.front", lambda *row: {**row[2], "bytes": stored.getvalue()}
    )
    frame = shown(all_of(source(root, "lerobot"))[0].images["front"])[0]
    np.testing.assert_allclose(frame, np.asarray(picture.convert("RGB")), atol=20)


def test_sixteen_bits_are_not_cut_off(lerobot_folder):
    root = lerobot_folder("v2.1")
    stored = io.BytesIO()
    Image.fromarray(np.full(recordings.SIZE, 1500, np.uint16)).save(stored, "PNG")
    recordings.edit_rows(
        root, "observation.images.front", lambda *row: {**row[2], "bytes": stored.getvalue()}
    )
    with pytest.raises(
        UserError, match="episode 0, step 0, camera 'front': an image has more than 8 bits a pixel"
    ):
        all_of(source(root, "lerobot"))


@pytest.mark.parametrize(
    "codec, pixels", [("libx264", "yuv420p10le"), ("libvpx-vp9", "yuv420p"), ("ffv1", "gray16le")]
)
def test_pixels_of_any_depth(lerobot_folder, codec, pixels):
    """Ten bits of a colour are cut to eight; sixteen of grey are depth, which is refused."""
    root = lerobot_folder("v2.1-video")
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


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_task_in_an_episode(lerobot_folder, version):
    root = lerobot_folder(version)
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
    assert names_of(opened) == [0, 1, 2, 3]
    assert lengths_of(source(root, "lerobot", instruction="tidy up")) == [4, 3, 3]


@pytest.mark.parametrize("version", VERSIONS)
def test_blank_tasks(lerobot_folder, version):
    root = lerobot_folder(version)
    recordings.edit_rows(root, "task_index", lambda episode, step, task: 7 if episode == 1 else task)
    with pytest.raises(
        UserError, match="task_index 7, to which the metadata has no text; .*--fallback_instruction for those"
    ):
        source(root, "lerobot")
    opened = source(root, "lerobot", max_skipped=1)
    assert lengths_of(opened) == [4, 3] and opened.skips.lines()[0] == "1 episodes left out:"
    episodes = all_of(source(root, "lerobot", fallback_instruction="tidy up"))
    texts = [episode.instruction for episode in episodes]
    assert texts == ["open the drawer", "tidy up", "open the drawer"]


@pytest.mark.parametrize("version", VERSIONS)
def test_splits(lerobot_folder, version):
    root = lerobot_folder(version)
    recordings.edit_info(root, splits={"train": "0:2", "val": "2:3"})
    with pytest.raises(
        UserError, match=r"has splits train \(2\), val \(1\) of its 3 episodes; give --split=train, another"
    ):
        source(root, "lerobot")
    assert lengths_of(source(root, "lerobot", split="train")) == [4, 3]
    opened = source(root, "lerobot", split="val")
    assert lengths_of(opened) == [3] and unused(opened)[-1] == "split train"
    assert opened.action != source(root, "lerobot", split="all").action
    with pytest.raises(UserError, match=r"--split is 'test'; .* has splits train \(2\), val \(1\), and no"):
        source(root, "lerobot", split="test")
    recordings.edit_info(root, splits={"train": "0:3", "test": "3:3"})
    with pytest.raises(UserError, match="the part that --split names holds no episode"):
        source(root, "lerobot", split="test")
    recordings.edit_info(root, splits={"train": "most of it"})
    with pytest.raises(UserError, match="has the split train: 'most of it'; expected a range such as '0:40'"):
        source(root, "lerobot")


def test_other_machines_get_all_that_they_need(lerobot_folder):
    root = lerobot_folder("v3.0")
    units = pickle.loads(pickle.dumps(source(root, "lerobot").units))
    read = pickle.loads(pickle.dumps(convert.strictly(source(root, "lerobot"))))
    assert [index for unit in units for index, _ in read(unit)] == [0, 1, 2]
    recordings.edit_rows(root, "observation.images.front", lambda *row: {**row[2], "bytes": b"no image"})
    with pytest.raises(UserError, match="episode 0, step 0, camera 'front': the image does not decode"):
        list(read(units[0]))


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
