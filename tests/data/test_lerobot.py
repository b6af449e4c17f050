"""LeRobot folders read where they lie, as people train on them, and what is said of bad ones."""

import io
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from PIL import Image

from qt_jax.curation import convert, inspect, repack_lerobot
from qt_jax.curation.validate import validate
from qt_jax.data import directories, images, indexing, lerobot_meta, lerobot_spec, video
from qt_jax.data import index as indices
from qt_jax.errors import UserError
from qt_jax.training import datasets, setup
from qt_jax.training.config import default_config
from tests.conftest import ROOT, run_command
from tests.curation import recordings
from tests.data import recipes

REAL = Path(__file__).parent / "lerobot"
"""Written by lerobot itself: see lerobot_writer.py, whose constants these are."""
LENGTHS, TASKS, FAILED = (7, 5, 9, 6), ("open the drawer", "close the drawer"), 1
VERSIONS = ("v2.1", "v3.0")


def written(episode, step, camera):
    """`frame` of lerobot_writer.py, which imports lerobot."""
    image = np.zeros((48, 64, 3))
    image[..., 0], image[..., 1] = 40 + 40 * episode, 20 + 20 * step
    rows, columns = np.linspace(0, 200, 48)[:, None], np.linspace(0, 200, 64)[None]
    image[..., 2] = columns if camera == "wrist" else rows
    return image


def config_of(path, **data):
    config = default_config("q_transformer")
    config.data.path, config.data.validation_fraction = str(path), 0.0
    config.data.cache = os.environ["QT_JAX_CACHE"]
    config.data.update(data)
    return config


def recipe(path, **data):
    config = config_of(path, **data)
    return setup.prepare(config, datasets.entries(config), any_returns=True)[1]


def source(path, **data):
    return recipe(path, **data).mixture.sources[0]


def episodes_of(source):
    numbers = range(len(source.index))
    return [indices.read(source.directory, source.index, source.spec, number, 0.0, "") for number in numbers]


def check_real(path):
    """All that was written is read, each frame at its step; returns the source."""
    opened = source(path)
    observation = opened.spec.observation
    assert observation.cameras == ("front", "wrist") and observation.state_dim == 3
    assert opened.action.names == ("shoulder", "gripper")
    for number, episode in enumerate(episodes_of(opened)):
        rng, length = np.random.default_rng(number), LENGTHS[number]
        rows = [(rng.normal(size=3), rng.uniform(-1, 1, 2)) for _ in range(length)]
        np.testing.assert_array_equal(episode.state, np.float32([state for state, _ in rows]))
        np.testing.assert_array_equal(episode.actions, np.float32([action for _, action in rows[:-1]]))
        assert episode.instruction == TASKS[number % 2] and episode.dt == pytest.approx(0.1)
        assert episode.success == episode.terminal == (number != FAILED)
        assert episode.rewards.tolist() == [0.0] * (length - 2) + [float(number != FAILED)]
        for camera, frames in episode.images.items():
            assert len(frames) == length
            for step, frame in enumerate(frames):
                error = np.abs(images.decode(frame) - written(number, step, camera)).mean()
                assert error < 6, f"episode {number}, step {step}, {camera}"
    return opened


def test_folders_that_lerobot_itself_wrote():
    one, other = (check_real(REAL / version) for version in VERSIONS)
    assert one.index.fingerprint == other.index.fingerprint
    assert one.index.statistics == other.index.statistics
    low, high = one.index.statistics["action"].low, one.index.statistics["action"].high
    assert (one.action.low, one.action.high) == (low, high)


@pytest.mark.slow
@pytest.mark.parametrize("venv", [".lerobot21", ".lerobot"])
def test_folders_that_lerobot_writes_now(tmp_path, venv):
    command = [str(ROOT / venv / "bin/python"), "tests/data/lerobot_writer.py", str(tmp_path / "lr")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment, timeout=300)
    prints = {check_real(tmp_path / "lr" / kind).index.fingerprint for kind in ("video", "image")}
    assert prints == {source(REAL / "v2.1").index.fingerprint}


@pytest.mark.parametrize("kind", ["video", "JPEG"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_episodes_are_those_that_convert_makes(lerobot_folders, version, kind):
    path = lerobot_folders / f"{version}-{kind}"
    opened = convert.open_source(convert.Settings(input=str(path), format="lerobot"))
    converted = list(convert.episodes(opened, opened.units, []))
    own = source(path)
    assert (own.action.names, own.spec.observation) == (opened.action.names, opened.observation)
    for one, other in zip(episodes_of(own), converted, strict=True):
        for name in ("state", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for name in ("instruction", "task", "success", "collector"):
            assert getattr(one, name) == getattr(other, name)
        for camera, frames in one.images.items():
            own_pixels = np.stack([images.decode(frame) for frame in frames])
            theirs = np.stack([images.decode(image) for image in other.images[camera]])
            assert own_pixels.shape == theirs.shape
            np.testing.assert_allclose(own_pixels.astype(int), theirs, atol=24)  # JPEG's own error


def test_an_action_of_two_keys(lerobot_folders):
    path, keys = str(lerobot_folders / "v3.0-JPEG"), ("action", "observation.state")
    own = lerobot_spec.spec(path, action=keys, state=())
    given = convert.Settings(input=path, format="lerobot", action=keys, state=())
    opened = convert.open_source(given)
    assert own.action.names == opened.action.names == ("shoulder", "gripper", "x", "y", "z")
    folder = directories.open_dataset(path)
    records = [content for number in range(len(folder.shards)) for _, content in folder.scan(number, "")]
    for record, other in zip(records, convert.episodes(opened, opened.units, []), strict=True):
        found = own.standardise(folder.parse(record)).action
        np.testing.assert_array_equal(found[:-1], other.actions)
    assert not np.any(found[-1])


def test_names_of_an_action_of_two_keys():
    features = {"left": {"shape": [2], "names": ["x", "y"]}, "right": {"shape": [1], "names": ["x"]}}
    assert lerobot_meta.joined_names(features, ("left", "right")) == ["left.x", "left.y", "right.x"]
    assert lerobot_meta.joined_names(features, ("left",)) == ["x", "y"]


def test_a_success_ends_an_episode_and_a_stored_reward_moves_from_the_last_action(lerobot_folders):
    spec = lerobot_spec.spec(str(lerobot_folders / "v2.1-JPEG"), success="none", reward="next.reward")
    episode = {"tasks": ["go"] * 4, "episode_index": 3, "steps": {
        "action": np.ones((4, 2), np.float32), "observation.state": np.zeros((4, 3), np.float32),
        "next.reward": np.float32([1, 2, 3, 4]), "next.success": np.bool_([0, 1, 0, 0]),
        "observation.images.front": list("abcd"), "observation.images.wrist": list("abcd"),
    }}  # fmt: skip
    raw = spec.standardise(episode)
    assert raw.reward.tolist() == [1, 2, 7, 0] and raw.action[:, 0].tolist() == [1, 1, 1, 0]
    assert (raw.success, raw.episode_id) == (False, "episode_000003")
    raw = lerobot_spec.spec(str(lerobot_folders / "v2.1-JPEG")).standardise(episode)
    assert raw.reward.tolist() == [0, 1, 0] and raw.images["front"] == list("abc") and raw.terminal


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_goes_on_bit_for_bit(version):
    made = recipe(REAL / version, segment_length=7)
    whole = recipes.take(recipes.make_iterator(made, batch_size=4), 5)
    stopped = recipes.make_iterator(made, batch_size=4, threads=1, memory=0)
    recipes.take(stopped, 3)
    state = stopped.get_state()
    later = recipes.make_iterator(made, batch_size=4)
    later.set_state(state)
    for one, other in zip(whole[3:], recipes.take(later, 2)):
        recipes.equal(one, other)


def test_no_frame_is_decoded_twice_within_a_segment(monkeypatch):
    decoded, own = [], video._decoded

    def counted(*arguments):
        times = []
        if threading.current_thread() is threading.main_thread():  # not the loader of another test
            decoded.append(times)
        for shown in own(*arguments):
            times.append(shown.at)
            yield shown

    monkeypatch.setattr(video, "_decoded", counted)
    episode = episodes_of(source(REAL / "v3.0"))[2]
    for frames in episode.images.values():
        images.fill(np.zeros((7, 48, 64, 3), np.uint8), frames[1:8])
    assert len(decoded) == len(episode.images) == 2
    for times in decoded:  # from a key frame, every second one, to the frame after
        assert times == sorted(set(times)) and 7 <= len(times) <= 7 + 2


def test_splits_of_the_folder(lerobot_folder):
    root = lerobot_folder("v2.1-JPEG")
    recordings.edit_info(root, splits={"train": "0:1", "val": "1:2", "test": "2:3"})
    opened = source(root)
    assert opened.train.tolist() == [0] and opened.validation.tolist() == [1]
    assert opened.directory.splits() == [
        "validation is the dataset's own split 'val', nothing of 'train'",
        "its split 'test', 1 episodes, is not read",
    ]
    recordings.edit_info(root, splits={"most": "0:3"})
    with pytest.raises(UserError, match=r"has splits \['most'\], expected 'train'; correct its meta/info"):
        source(root)
    recordings.edit_info(root, splits={"train": "0:3", "val": "2:3"})
    with pytest.raises(UserError, match="episodes both in 'val' and in 'train'; correct it"):
        source(root)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_index_is_kept_until_something_changes(lerobot_folder, tmp_path, version):
    root, cache = lerobot_folder(f"{version}-JPEG"), tmp_path / "cache"  # other tests write to the common one

    def fingerprint():
        return source(root, cache=str(cache)).index.fingerprint

    first, known = fingerprint(), set((cache / "index").iterdir())
    os.utime(next(root.glob("data/*/*.parquet")))  # the rows are the same
    assert fingerprint() == first and set((cache / "index").iterdir()) == known
    recordings.edit_rows(root, "action", lambda episode, step, value: [0.5, value[1]])
    assert fingerprint() != first


def test_a_table_has_a_folder_beside_another(lerobot_folders, tmp_path):
    table = tmp_path / "lerobot_tables.py"
    table.write_text(
        "from qt_jax.data import lerobot_spec\n"
        "top = {'top': 'observation.images.front'}\n"
        f"one = lerobot_spec.spec({str(lerobot_folders / 'v2.1-video')!r}, cameras=top)\n"
        f"two = lerobot_spec.spec({str(lerobot_folders / 'v3.0-JPEG')!r}, state=(), success='none')\n"
        "SPECS = {'one': one, 'two': two}\nMIXTURES = {'both': {'one': 1.0, 'two': 3.0}}\n"
    )
    made = recipe("", tables=str(table), mixture="both")
    assert made.mixture.interface.observation.cameras == ("front", "top", "wrist")
    assert [source.index.columns["success"].any() for source in made.mixture.sources] == [True, False]
    (batch,) = recipes.take(recipes.make_iterator(made), 1)
    assert sorted(batch.camera_mask["top"]) == [False] * 6 + [True] * 2


def test_a_video_longer_than_its_rows_is_worth_a_look(lerobot_folder, tmp_path):
    root = lerobot_folder("v2.1-video")
    frames = [recordings.frame(0, step % 5, "front") for step in range(9)]
    recordings.video(root / "videos/chunk-000/observation.images.front/episode_000000.mp4", frames)
    config = config_of(root)
    (entry,) = datasets.entries(config)
    count, text = validate(entry, config.data, tmp_path / "found.jsonl", "all", 9)
    longer = "'observation.images.front' lasts 0.9 s, the rows end at 0.4 s; the rest is not used"
    assert count == 0 and f"episode 0 (episode_000000): the video of {longer}" in text


def test_of_a_folder_that_grew_the_new_files_alone_are_read(lerobot_folder, monkeypatch):
    root = lerobot_folder("v2.1-JPEG")  # of two chunks
    meta = {name: (root / "meta" / name).read_text() for name in ("info.json", "episodes.jsonl")}
    (root / "meta/episodes.jsonl").write_text("".join(meta["episodes.jsonl"].splitlines(True)[:2]))
    recordings.edit_info(root, splits={"train": "0:2"}, total_episodes=2)
    scan, scanned = indexing._scan, []
    monkeypatch.setattr(indexing, "_scan", lambda *given: (scanned.append(given[-1]), scan(*given))[1])
    assert len(source(root).index) == 2
    for name, text in meta.items():
        (root / "meta" / name).write_text(text)
    assert len(source(root).index) == 3 and scanned == [0, 1]


def test_inspect_shows_the_frames_of_videos(tmp_path):
    (text,) = inspect.inspect(recipe(REAL / "v3.0"), epath.Path(tmp_path), 3, None)
    assert "4 episodes" in text and "the bounds of its actions" in text
    assert (tmp_path / "collected.html").read_text().count("data:image/jpeg") >= 12


def test_cameras_of_different_sizes(lerobot_folder, tmp_path):
    """They are resized to what the network sees; each is judged by its own size."""
    root = lerobot_folder("v2.1-JPEG")
    key = "observation.images.wrist"
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[key]["shape"] = [16, 24, 3]
    recordings.edit_info(root, features=features)

    def smaller(image):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(image["bytes"])).resize((24, 16)).save(buffer, "JPEG")
        return {"bytes": buffer.getvalue(), "path": image["path"]}

    for file in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(file)
        images = pa.array([smaller(image) for image in table[key].to_pylist()], table.schema.field(key).type)
        pq.write_table(table.set_column(table.column_names.index(key), key, images), file)

    with pytest.raises(UserError, match=r"images of \[\(16, 24\), \(48, 64\)\]; set config.data.image_size"):
        recipe(root)
    found = recipe(root, image_size=32)
    assert found.mixture.interface.observation.image_size == (32, 32)
    (segment,) = recipes.take(recipes.make_iterator(found), 1)
    assert {name: frames.shape[2:] for name, frames in segment.images.items()} == dict.fromkeys(
        ("front", "wrist"), (32, 32, 3)
    )
    (entry,) = datasets.entries(config_of(root))
    assert validate(entry, config_of(root).data, epath.Path(tmp_path / "bad.jsonl"), "all", 3)[0] == 0

    (text,) = inspect.inspect(found, epath.Path(tmp_path), 1, None, videos=True)
    assert "front: stored 48 × 64; wrist: stored 16 × 24; " in (tmp_path / "collected.html").read_text()
    with av.open(str(next((tmp_path / "collected").glob("*_wrist.mp4")))) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == (16, 24)


def test_the_command_repack_makes_key_frames(tmp_path):
    new = tmp_path / "new"
    run_command("repack", f"--input={REAL / 'v3.0'}", f"--output={new}", "--keyframes=3", config="")
    check_real(new)
    with av.open(str(next(new.glob("videos/*/*/*.mp4")))) as container:
        keys = [frame.key_frame for frame in container.decode(video=0)]
    assert keys == [number % 3 == 0 for number in range(27)]


@pytest.mark.parametrize("version", VERSIONS)
def test_repack_keeps_all_and_makes_a_row_group_an_episode(lerobot_folders, tmp_path, version):
    path = lerobot_folders / f"{version}-video"
    copy, episodes, _ = repack_lerobot.repack(str(path), str(tmp_path / "copy"), 0)
    assert episodes == 3 and source(copy).index.fingerprint == source(path).index.fingerprint
    for file in copy.glob("data/*/*.parquet"):
        groups = pq.ParquetFile(file).metadata
        assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] in (
            [5, 4], [5], [4], [6],
        )  # fmt: skip
        assert pq.read_table(file).equals(pq.read_table(path / file.relative_to(copy)))
    for file in copy.glob("videos/**/*.mp4"):
        assert file.read_bytes() == (path / file.relative_to(copy)).read_bytes()
    video = sorted(path.glob("videos/**/*.mp4"))[0]
    damaged = Path(shutil.copytree(path, tmp_path / "damaged")) / video.relative_to(path)
    damaged.write_bytes(video.read_bytes()[:200])
    with pytest.raises(UserError, match=f"{damaged} cannot be opened .*; copy it again"):
        repack_lerobot.repack(str(tmp_path / "damaged"), str(tmp_path / "other"), 0)
    with pytest.raises(UserError, match="copy exists; delete it or choose another --output"):
        repack_lerobot.repack(str(path), str(tmp_path / "copy"), 0)
