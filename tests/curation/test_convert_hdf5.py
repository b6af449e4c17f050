"""HDF5 files as labs have them.

What is not as it should be is used all the same, or refused by name before anything is written.
"""

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from qt_jax.curation.convert import hdf5_keys, hdf5_streams
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.hdf5_files import (
    DEPTH,
    FLAGS,
    STEPS,
    episode,
    frames,
    linked,
    padded,
    robomimic,
    variable,
)
from tests.curation.opened import all_of, shown, source, unused

SIZE = recordings.SIZE


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("form", ["padded", "variable", "opaque", "string"])
def test_encoded_frames(tmp_path, kind, form):
    """ALOHA's are padded, each episode's to a length of its own, and `compress_len` says how long each is."""
    files = [recordings.encoded(image, kind) for image in frames()]
    for i, more in enumerate((0, 7)):
        path = episode(tmp_path / f"episode_{i}.hdf5")
        with h5py.File(path, "a") as file:
            file["compress_len"] = np.float64([[len(content) for content in files]])
            name = "observations/images/cam_high"
            if form == "padded":
                file[name] = np.pad(padded(files), [(0, 0), (0, more)])
            elif form == "variable":
                variable(file, name, files)
            else:
                file[name] = np.asarray(
                    files, np.dtype(f"{'V' if form == 'opaque' else 'S'}{max(map(len, files))}")
                )
    opened = source(tmp_path, "hdf5", **FLAGS)
    assert (
        opened.observation.cameras == ("cam_high",)
        and opened.observation.image_size == SIZE
        and not opened.notes
    )
    for one in all_of(opened):
        np.testing.assert_allclose(shown(one.images["cam_high"]), frames(), atol=8)
        assert kind == "PNG" or one.images["cam_high"][0] == files[0]  # as it is, without the padding


@pytest.mark.parametrize("form", ["pixels", "JPEG"])
def test_swapped_colours(tmp_path, form):
    """As ALOHA's recorder swaps them, where OpenCV encodes what the camera published as RGB."""
    swapped = frames()[..., ::-1]
    path = episode(tmp_path / "e.hdf5", **({"images__cam": swapped} if form == "pixels" else {}))
    if form == "JPEG":
        with h5py.File(path, "a") as file:
            file["observations/images/cam"] = padded([recordings.encoded(image, form) for image in swapped])
    opened = source(path, "hdf5", bgr=("cam",), **FLAGS)
    np.testing.assert_allclose(shown(all_of(opened)[0].images["cam"]), frames(), atol=10)
    with pytest.raises(UserError, match="--bgr=front: .* has no 'front'"):
        source(path, "hdf5", bgr=("front",), **FLAGS)


@pytest.mark.parametrize(
    "array, kept",
    [
        (lambda image: np.moveaxis(image, -1, 1), lambda image: image),
        (lambda image: np.concatenate([image, image[..., :1]], -1), lambda image: image),
        (lambda image: image[..., 1:2], lambda image: np.repeat(image[..., 1:2], 3, -1)),
        (lambda image: image[..., 1], lambda image: np.repeat(image[..., 1:2], 3, -1)),
        (lambda image: np.moveaxis(image[..., 1:2], -1, 1), lambda image: np.repeat(image[..., 1:2], 3, -1)),
        (lambda image: np.float32(image / 255), lambda image: image),
        (lambda image: np.float64(image), lambda image: image),
        (lambda image: np.moveaxis(np.float16(image / 255), -1, 1), lambda image: image),
    ],
    ids=[
        "channel first",
        "alpha",
        "grey",
        "grey without channels",
        "grey channel first",
        "to 1",
        "to 255",
        "half channel first",
    ],
)
def test_pixels_of_any_kind(tmp_path, array, kept):
    opened = source(episode(tmp_path / "e.hdf5", images__cam=array(frames())), "hdf5", **FLAGS)
    assert opened.observation.image_size == SIZE
    np.testing.assert_allclose(shown(all_of(opened)[0].images["cam"]), kept(frames()), atol=12)


def test_what_1_means_is_the_same_in_all_episodes(tmp_path):
    def level(value):
        return np.full((STEPS, *SIZE, 3), value, np.float32)

    for name, value in {"a": 1.0, "b": 200.0, "c": 90.0, "black": 0.0}.items():
        episode(tmp_path / f"{name}.hdf5", images__cam=level(value))
    with pytest.raises(
        UserError, match="a.hdf5: / has pixels of 'images/cam' from 0 to 1, others to 255; leave it out"
    ):
        source(tmp_path, "hdf5", **FLAGS)
    shades = [
        shown(one.images["cam"]).mean() for one in all_of(source(tmp_path, "hdf5", max_skipped=1, **FLAGS))
    ]
    np.testing.assert_allclose(shades, [200, 0, 90], atol=2)


def test_encoded_depth(tmp_path):
    stored = io.BytesIO()
    Image.fromarray(DEPTH[0]).save(stored, "PNG")
    path = episode(
        tmp_path / "e.hdf5", images__front=frames(), images__aligned=padded([stored.getvalue()] * STEPS)
    )
    with pytest.raises(
        UserError, match=r"'aligned' \(of more than 8 bits a pixel, as depth has\); leave them out with"
    ):
        source(path, "hdf5", **FLAGS)
    assert unused(source(path, "hdf5", cameras=("front",), **FLAGS)) == ["images/aligned"]


def test_names_that_end_alike(tmp_path):
    cameras = {"images__head__rgb": frames(), "images__left__rgb": frames("wrist"), "images__state": frames()}
    path = episode(
        tmp_path / "e.hdf5", left__pos=np.zeros((STEPS, 1)), right__pos=np.ones((STEPS, 2)), **cameras
    )
    opened = source(path, "hdf5", **FLAGS)
    assert opened.observation.cameras == ("head_rgb", "images_state", "left_rgb")
    assert opened.observation.state_description == "left_pos (1), qpos (3), right_pos (2)"
    np.testing.assert_allclose(shown(all_of(opened)[0].images["left_rgb"]), frames("wrist"), atol=8)
    assert source(path, "hdf5", state=("right_pos",), **FLAGS).observation.state_dim == 2


def test_what_is_no_observation_is_named(tmp_path):
    path = episode(tmp_path / "e.hdf5", pose=np.zeros((STEPS, 4, 4)), on=np.ones(STEPS, bool))
    with h5py.File(path, "a") as file:
        file["base_action"] = np.zeros((STEPS, 2))
    opened = source(path, "hdf5", **FLAGS)
    assert (
        unused(opened) == ["pose", "base_action"]
        and opened.observation.state_description == "on (1), qpos (3)"
    )


def test_masks(tmp_path):
    path = robomimic(tmp_path / "image.hdf5")
    with h5py.File(path, "a") as file:
        file["mask/train"], file["mask/valid"] = np.asarray([b"demo_0", b"demo_2"]), np.asarray([b"demo_1"])
    with pytest.raises(
        UserError, match=r"has masks train \(2\), valid \(1\) of its 3 episodes; give --split=train"
    ):
        source(path, "hdf5")
    assert [place.group for place, _ in source(path, "hdf5", split="train").units] == [
        "data/demo_0",
        "data/demo_2",
    ]
    opened = source(path, "hdf5", split="valid")
    masks = {key.name: (key.holds, key.becomes) for key in opened.keys if "mask" in key.name}
    assert masks["mask/valid"] == ("1 of 3 episodes", "training (1)")
    assert masks["mask/train"] == ("2 of 3 episodes", "not used: --split and --validation name others")
    assert source(path, "hdf5", split="all").episodes == 3
    with h5py.File(path, "a") as file:
        file["mask/better"] = np.asarray([b"demo_9"])
    with pytest.raises(UserError, match="mask/better names data/demo_9, which is not there"):
        source(path, "hdf5", split="train")


def test_rewards_and_dones_with_a_dim_more(tmp_path):
    ends = np.arange(STEPS)[:, None] == STEPS - 1
    path = robomimic(tmp_path / "a.hdf5", rewards=ends, dones=ends)
    assert all(one.success and one.rewards[-1] == 1 for one in all_of(source(path, "hdf5")))
    np.testing.assert_array_equal(
        all_of(source(path, "hdf5", success="dones", reward="rewards"))[0].rewards, [0, 0, 0, 0, 1]
    )
    with pytest.raises(
        UserError, match=r"demo_0: rewards has shape \(6, 2\), expected one number a step: \[T\] or \[T, 1\]"
    ):
        source(robomimic(tmp_path / "b.hdf5", rewards=np.zeros((STEPS, 2))), "hdf5")
    with pytest.raises(UserError, match="demo_0 has 6 actions and 4 values of its success"):
        source(robomimic(tmp_path / "c.hdf5", rewards=np.zeros(4)), "hdf5")


def test_an_action_under_another_key(tmp_path):
    path = robomimic(tmp_path / "a.hdf5", action=np.zeros((STEPS, 7)))
    with pytest.raises(UserError, match="both 'action' and 'actions'"):
        source(path, "hdf5")
    opened = source(path, "hdf5", action=("actions",))
    assert opened.action.dims == 2 and unused(opened) == ["action"]


def test_an_action_of_two_keys(tmp_path):
    """Mobile ALOHA's base has one of its own."""
    path, base = episode(tmp_path / "a.hdf5"), np.random.default_rng(1).normal(size=(STEPS, 3))
    with h5py.File(path, "a") as file:
        file["base_action"], arms = base, file["action"][:]
    given = ("action", "base_action")
    opened = source(path, "hdf5", action=given, **FLAGS)
    assert opened.action.names == ("a0", "a1", "a2", "a3", "a4") and not unused(opened)
    (found,) = all_of(opened)
    np.testing.assert_array_equal(found.actions, np.float32(np.concatenate([arms, base], axis=1)[:-1]))
    roles = {key.name: key.becomes for key in opened.keys}
    assert (roles["action"], roles["base_action"]) == ("action 0 to 1", "action 2 to 4")

    names = ("left", "right", "x", "y", "turn")
    assert source(path, "hdf5", action=given, action_names=names, **FLAGS).action.names == names
    for wrong in (names[:4], ("left",) * 5):
        with pytest.raises(UserError, match="--action_names is .*; expected 5 names, each once, for a0, a1"):
            source(path, "hdf5", action=given, action_names=wrong, **FLAGS)
    with pytest.raises(UserError, match="--action=action,action names a key twice"):
        source(path, "hdf5", action=("action", "action"), **FLAGS)

    with h5py.File(path, "a") as file:
        del file["base_action"]
        file["base_action"] = base[1:]
    with pytest.raises(UserError, match=r"end apart \(6 of action, 5 of base_action\); leave one out with"):
        source(path, "hdf5", action=given, **FLAGS)


@pytest.mark.parametrize("link", ["soft", "external", "hard"])
def test_links_are_followed(tmp_path, link):
    with h5py.File(tmp_path / "big.bin", "w") as big:
        big["front"] = frames()
    links = {
        "soft": lambda file: h5py.SoftLink("/raw/front"),
        "external": lambda file: h5py.ExternalLink("big.bin", "front"),
        "hard": lambda file: file["raw/front"],
    }
    opened = source(linked(tmp_path / "one.hdf5", links[link]), "hdf5", **FLAGS)
    assert opened.observation.cameras == ("front",) and unused(opened) == ["raw/front"]
    (one,) = all_of(opened)
    assert len(one.images["front"]) == STEPS


def test_files_that_are_named_otherwise(tmp_path):
    episode(tmp_path / "one.hdf5").rename(tmp_path / "ONE.HDF5")
    (tmp_path / "._ONE.HDF5").write_bytes(b"of macOS")
    assert source(tmp_path, "hdf5", **FLAGS).episodes == 1


def test_what_has_no_step_of_its_own_is_not_used(tmp_path):
    path = episode(tmp_path / "one.hdf5", started=3.0, none=h5py.Empty("f"))
    with h5py.File(path, "a") as file:
        file["mask"], file["data"] = np.ones(3), np.ones((2, 3))
    assert unused(source(path, "hdf5", **FLAGS)) == ["none", "started", "data", "mask"]


def test_observations_that_are_one_dataset_and_of_two_folders(tmp_path):
    path = tmp_path / "one.hdf5"
    with h5py.File(path, "w") as file:
        file["action"], file["observations"] = np.ones((STEPS, 2)), np.ones((STEPS, 4))
    assert source(path, "hdf5", **FLAGS).observation.state_dim == 4
    with h5py.File(path, "a") as file:
        file["obs"] = np.ones((STEPS, 3))
    assert source(path, "hdf5", **FLAGS).observation.state_description == "obs (3), observations (4)"
    with pytest.raises(UserError, match=r"one.hdf5: / has no observation that is used, of \['obs', 'observ"):
        source(path, "hdf5", state=(), **FLAGS)


@pytest.mark.parametrize(
    "place, value, expected",
    [
        ("attribute", "fold it", "fold it"),
        ("attribute", ["fold it"], "fold it"),
        ("attribute", np.asarray([b"fold it"]), "fold it"),
        ("attribute", ["fold it", "open it"], "step 1: its instruction changes from 'fold it' to 'open it'"),
        ("dataset", "fold it", "fold it"),
        ("dataset", ["fold it"] * STEPS, "fold it"),
        ("dataset", ["fold it"] * 4 + ["open it"] * 2, "step 4: its instruction changes from 'fold it' to"),
        ("json", '{"language_instruction": "fold it"}', "fold it"),
        ("json", '{"language_instruction": ["f", "old it"]}', "step 1: its instruction changes"),
        ("json", '{"language_instruction": ["f", "o"]}', "fo"),
        ("json", "{fold", "the attribute problem_info is no JSON"),
        ("json", "[1]", "has no instruction"),
    ],
)
def test_where_an_instruction_stands(tmp_path, place, value, expected):
    path = episode(tmp_path / "one.hdf5")
    with h5py.File(path, "a") as file:
        if place == "dataset":
            file["language_instruction"] = value
        else:
            file.attrs["instruction" if place == "attribute" else "problem_info"] = value
    flags = FLAGS | {"instruction": ""}
    if len(expected) > 10:
        with pytest.raises(UserError, match=expected):
            source(path, "hdf5", **flags)
    else:
        opened = source(path, "hdf5", **flags)
        assert [one.instruction for one in all_of(opened)] == [expected] and opened.notes == ()
    names = {"dataset": "language_instruction", "attribute": "attribute instruction"}
    left = unused(source(path, "hdf5", **FLAGS))
    assert left == [names[place]] if place in names else len(left) == ("language" in value)


def test_chunks_are_read_whole():
    class Dataset:
        """Counts how often it is read."""

        ndim, dtype, shape, chunks, reads = 4, np.dtype(np.uint8), (10, 8, 8, 3), (4, 8, 8, 3), 0

        def __len__(self):
            return 10

        def __getitem__(self, steps):
            self.reads += 1
            return np.arange(10, dtype=np.uint8)[steps, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)

    dataset = Dataset()
    assert [frame[0, 0, 0] for frame in hdf5_streams.frames(dataset, 1.0)] == [
        *range(10)
    ] and dataset.reads == 3


def test_a_table_of_lengths_is_not_offered_as_the_action(tmp_path):
    path = episode(tmp_path / "e.hdf5")
    with h5py.File(path, "a") as file:
        file["compress_len"], file["base_action"] = np.ones((1, STEPS)), np.ones((STEPS, 2))
        roles = {key.name: key.becomes for key in hdf5_keys.possible(file)}
    assert "an image says itself where it ends" in roles["compress_len"]
    assert "--action" in roles["base_action"]
