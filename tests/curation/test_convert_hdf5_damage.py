"""HDF5 files that are damaged or disagree with themselves: named in one line, with the place."""

import h5py
import numpy as np
import pytest

from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.hdf5_files import DEPTH, FLAGS, STEPS, episode, frames, linked, padded, robomimic
from tests.curation.opened import all_of, source, unused


@pytest.mark.parametrize(
    "name, array, why",
    [
        ("images__depth", DEPTH, "depth, uint16"),
        ("images__depth_front", DEPTH[..., None].astype(np.uint8), "depth, uint8"),
        ("d435", DEPTH, "uint16 .*expected uint8 or float"),
        ("images__range", DEPTH[..., None].astype(np.float32), "depth or grey: expected uint8"),
        ("segmentation", DEPTH[..., None].astype(np.int32), "int32 .*expected uint8 or float"),
        ("images__stereo", np.ones((STEPS, *recordings.SIZE, 6), np.uint8), "expected 1, 3 or 4 channels"),
        ("images__bayer", np.ones((STEPS, 500), np.uint8), "neither pixels nor JPEG, PNG or WebP"),
    ],
)
def test_images_that_cannot_be_used_are_refused_by_name(tmp_path, name, array, why):
    path = episode(tmp_path / "e.hdf5", images__front=frames(), **{name: array})
    short = name.rsplit("__", 1)[-1]
    with pytest.raises(
        UserError, match=rf"cannot be used: '{short}' \(.*{why}.*\); leave them out with --cameras=front\."
    ):
        source(path, "hdf5", **FLAGS)
    opened = source(path, "hdf5", cameras=("front",), **FLAGS)
    assert unused(opened) == [name.replace("__", "/")]


@pytest.mark.parametrize("least, greatest", [(-1.0, 1.0), (0.0, 1.5), (0.0, 1000.0), (0.0, np.nan)])
def test_floats_of_another_range(tmp_path, least, greatest):
    path = episode(tmp_path / "e.hdf5", images__cam=np.float32(frames()) / 255 * (greatest - least) + least)
    with pytest.raises(
        UserError, match=r"'cam' \(float32 .*, neither from 0 to 1 nor from 0 to 255\).* --cameras= \(none\)"
    ):
        source(path, "hdf5", **FLAGS)


@pytest.mark.parametrize("files", [("image", "low_dim"), ("z_image", "a_low_dim")])
def test_files_of_two_kinds(tmp_path, files):
    for name in files:
        with h5py.File(robomimic(tmp_path / f"{name}.hdf5", demos=2), "a") as file:
            for demo in file["data"].values() if "image" in name else ():
                demo["obs/front"] = frames()
    image_first = files[0] == "image"
    problem = f"has {'no' if image_first else 'an'} observation 'front', which"
    remedy = "convert files of another kind by themselves, or choose with --cameras"
    with pytest.raises(UserError, match=f"{problem} .* has{'' if image_first else ' not'}; {remedy}"):
        source(tmp_path, "hdf5")
    assert source(tmp_path, "hdf5", cameras=()).episodes == 4
    opened = source(tmp_path, "hdf5", max_skipped=2)
    assert opened.episodes == 2 and len(opened.skips.errors) == 2


def test_bad_episodes_are_left_out_and_counted(tmp_path):
    whole = [recordings.encoded(image, "JPEG") for image in frames()]
    for i in range(6):
        files = [content[:-400] if (i, step) == (2, 3) else content for step, content in enumerate(whole)]
        episode(tmp_path / f"e{i}.hdf5", images__cam=padded(files))
    with h5py.File(tmp_path / "e0.hdf5", "a") as file:
        file["action"][4, 1] = np.nan
    with h5py.File(tmp_path / "e1.hdf5", "a") as file:
        file["observations/qpos"][2, 0] = np.inf
    with h5py.File(tmp_path / "e3.hdf5", "a") as file:
        for key in ("action", "observations/qpos", "observations/images/cam"):
            kept = file[key][:1]
            del file[key]
            file[key] = kept
    (tmp_path / "e4.hdf5").write_bytes(b"no HDF5")
    opened = source(tmp_path, "hdf5", max_skipped=5, **FLAGS)
    assert len(all_of(opened)) == 1 and opened.action.high[1] < 2
    first, *lines = opened.skips.lines()
    assert first == "5 episodes left out:"
    problems = (
        "e4.hdf5 cannot be read",
        "e0.hdf5: /, step 4: action[1] is nan",
        "e1.hdf5: /, step 2: state[0] is inf",
        "e3.hdf5: / has 1 actions and 1 observations",
        "e2.hdf5: /, step 3, camera 'cam': the image does not decode",
    )
    for line, expected in zip(lines, problems, strict=True):
        assert expected in line
    with pytest.raises(UserError, match="step 3, camera 'cam': .* It is bad episode 5, --max_skipped is 4"):
        all_of(source(tmp_path, "hdf5", max_skipped=4, **FLAGS))


def test_episodes_of_other_dims_and_none_that_is_left(tmp_path):
    for i, dims in enumerate((3, 2, 2)):
        with h5py.File(episode(tmp_path / f"e{i}.hdf5"), "a") as file:
            del file["action"]
            file["action"] = np.zeros((STEPS, dims))
    assert source(tmp_path, "hdf5", max_skipped=1, **FLAGS).action.dims == 2
    with pytest.raises(
        UserError, match="e0.hdf5: / has actions of 3 dims, .*e1.hdf5: / of 2; convert each robot by itself"
    ):
        source(tmp_path, "hdf5", **FLAGS)
    with pytest.raises(UserError, match="no episode is left of 3; the last: .* has no instruction"):
        source(tmp_path, "hdf5", max_skipped=9, success="all", fps=10.0)


def test_a_demo_without_its_actions_is_a_bad_episode(tmp_path):
    path = robomimic(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"], file["data/demo_2/rewards"]
    with pytest.raises(UserError, match="demo_1 has features .*, expected 'action' among them"):
        source(path, "hdf5")
    opened = source(path, "hdf5", max_skipped=2)
    assert (
        opened.episodes == 1
        and "demo_2 has no 'rewards', expected it as in the other" in opened.skips.lines()[2]
    )


@pytest.mark.parametrize("of", ["observations/images/front", "notes"])
def test_a_link_to_what_is_not_there_is_refused(tmp_path, of):
    path = linked(tmp_path / "one.hdf5", lambda file: h5py.ExternalLink("gone.bin", "front"), of)
    with pytest.raises(UserError, match=f"one.hdf5: {of} is a link to what is not there"):
        source(path, "hdf5", **FLAGS)
    path = robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.SoftLink("/gone")
    with pytest.raises(UserError, match="demos.hdf5: data/demo_1 is a link to what is not there"):
        source(path, "hdf5")
    assert len(all_of(source(path, "hdf5", max_skipped=1))) == 2


def test_a_reward_that_is_no_number(tmp_path):
    path = robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = [b"yes"] * STEPS
    with pytest.raises(UserError, match="demos.hdf5: data/demo_1: rewards holds .*, expected numbers"):
        source(path, "hdf5")


@pytest.mark.parametrize("fps", [0, -5, np.nan, np.inf, "fast"])
def test_a_rate_that_is_none_is_named(tmp_path, fps):
    path = episode(tmp_path / "one.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs["fps"] = fps
    with pytest.raises(UserError, match=f"one.hdf5: / has fps {fps}, expected a number above 0"):
        source(path, "hdf5", **FLAGS | {"fps": 0.0})


@pytest.mark.parametrize("action", [np.full((STEPS, 2), b"a"), np.ones((STEPS, 0)), np.ones(STEPS)])
def test_an_action_that_is_none_is_not_called_damage(tmp_path, action):
    path = episode(tmp_path / "one.hdf5")
    with h5py.File(path, "a") as file:
        del file["action"]
        file["action"] = action
    with pytest.raises(UserError, match="one.hdf5: /: the action .*; give --action=KEY"):
        source(path, "hdf5", **FLAGS)
