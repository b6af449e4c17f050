"""Tiny LeRobot and HDF5 folders, in the files and columns that their own tools write."""

import io
import json

import h5py
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS, SIZE = 10, (48, 64)
LENGTHS = (5, 4, 6)
TASKS = ("open the drawer", "close the drawer")
VERSIONS = ("v2.0", "v2.1", "v3.0")
SOLVED = (4, None, 2)
"""The frame at whose action each episode succeeds."""
CAMERAS = {"observation.images.front": "front", "observation.images.wrist": "wrist"}


def frame(episode, step, camera):
    """A smooth picture that tells episode, step and camera apart, whatever a codec does to it."""
    height, width = SIZE
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 40 + 60 * episode
    image[..., 1] = 20 + 35 * step
    image[..., 2] = (
        np.linspace(0, 200, width)[None] if camera == "wrist" else np.linspace(0, 200, height)[:, None]
    )
    return image


def vectors(episode):
    rng = np.random.default_rng(episode)
    return rng.normal(size=(LENGTHS[episode], 3)).astype(np.float32), rng.uniform(
        -1, 1, (LENGTHS[episode], 2)
    ).astype(np.float32)


def encoded(image, kind):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def video(path, frames, fps=FPS, codec="libx264", pixels="yuv420p"):
    path.parent.mkdir(parents=True, exist_ok=True)
    sharp = ["-crf", "4", "-g", "2"]
    settings = dict(fps=fps, codec=codec, pix_fmt_out=pixels, macro_block_size=2, output_params=sharp)
    writer = imageio_ffmpeg.write_frames(str(path), SIZE[::-1], **settings)
    writer.send(None)
    for image in frames:
        writer.send(np.ascontiguousarray(image))
    writer.close()


def _rows(episode, start, kind):
    state, action = vectors(episode)
    count = LENGTHS[episode]
    rows = {
        "observation.state": pa.array(state.tolist(), pa.list_(pa.float32())),
        "action": pa.array(action.tolist(), pa.list_(pa.float32())),
        "next.reward": pa.array(np.float32([0.25 * (step + 1) for step in range(count)])),
        "next.success": pa.array([step == SOLVED[episode] for step in range(count)]),
        "timestamp": pa.array(np.arange(count, dtype=np.float32) / FPS),
        "frame_index": pa.array(range(count)),
        "episode_index": pa.array([episode] * count),
        "index": pa.array(range(start, start + count)),
        "task_index": pa.array([episode % 2] * count),
    }
    if kind != "video":
        for key, camera in CAMERAS.items():
            images = [
                {"bytes": encoded(frame(episode, step, camera), kind), "path": f"frame_{step:06d}"}
                for step in range(count)
            ]
            rows[key] = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    return pa.table(rows)


def lerobot(root, *, version="v2.1", kind="PNG", features=()):
    """A dataset of three episodes.

    Args:
        root: the folder to write.
        version: LeRobot's, "v2.0", "v2.1" or "v3.0".
        kind: "PNG" or "JPEG" in the parquet files, or "video".
        features: more of them, in info.json alone.
    """
    stored = "video" if kind == "video" else "image"
    image = {"dtype": stored, "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}
    scalars = {"next.reward": "float32", "next.success": "bool", "timestamp": "float32"}
    scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    if version.startswith("v2"):
        write, data = _version_2, "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        videos = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    else:
        write, data = _version_3, "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        videos = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

    info = {
        "codebase_version": version,
        "robot_type": "arm",
        "fps": FPS,
        "total_episodes": 3,
        "chunks_size": 2,
        "splits": {"train": "0:3"},
        "data_path": data,
        "video_path": videos,
        "features": {
            **{key: image for key in CAMERAS},
            "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "gripper"]}},
            **{key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()},
            **dict(features),
        },
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    write(root, info, kind)
    return root


def _version_2(root, info, kind):
    def lines(rows):
        return "".join(json.dumps(row) + "\n" for row in rows)

    tasks = ({"task_index": i, "task": task} for i, task in enumerate(TASKS))
    (root / "meta/tasks.jsonl").write_text(lines(tasks))
    episodes = (
        {"episode_index": i, "tasks": [TASKS[i % 2]], "length": length} for i, length in enumerate(LENGTHS)
    )
    (root / "meta/episodes.jsonl").write_text(lines(episodes))

    def bounds(actions):
        low, high = actions.min(axis=0).tolist(), actions.max(axis=0).tolist()
        return {"min": low, "max": high, "count": [len(actions)]}

    stats = ({"episode_index": i, "stats": {"action": bounds(vectors(i)[1])}} for i in range(3))
    (root / "meta/episodes_stats.jsonl").write_text(lines(stats))
    for i in range(3):
        place = {"episode_chunk": i // 2, "episode_index": i}
        file = root / info["data_path"].format(**place)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_rows(i, sum(LENGTHS[:i]), kind), file)
        for key, camera in CAMERAS.items() if kind == "video" else ():
            path = root / info["video_path"].format(video_key=key, **place)
            video(path, [frame(i, step, camera) for step in range(LENGTHS[i])])


def _version_3(root, info, kind):
    """Episodes 0 and 1 share the first data file, all episodes one video; no statistics."""
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    rows = []
    for i, length in enumerate(LENGTHS):
        start = sum(LENGTHS[:i])
        row = {
            "episode_index": i,
            "tasks": [TASKS[i % 2]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": i // 2,
        }
        for key in CAMERAS if kind == "video" else ():
            row |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": start / FPS,
                f"videos/{key}/to_timestamp": (start + length) / FPS,
            }
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows[::-1]), root / "meta/episodes/chunk-000/file-000.parquet")
    (root / "data/chunk-000").mkdir(parents=True)
    tables = [_rows(i, sum(LENGTHS[:i]), kind) for i in range(3)]
    pq.write_table(pa.concat_tables(tables[:2]), root / "data/chunk-000/file-000.parquet")
    pq.write_table(tables[2], root / "data/chunk-000/file-001.parquet")
    for key, camera in CAMERAS.items() if kind == "video" else ():
        frames = [frame(i, step, camera) for i in range(3) for step in range(LENGTHS[i])]
        video(root / info["video_path"].format(video_key=key, chunk_index=0, file_index=0), frames)


def robomimic(root, *, next_obs=True):
    """Two files, the second with one episode that fails; rewards are 1 from the first success on."""
    root.mkdir(parents=True, exist_ok=True)
    for number, episodes in enumerate([(0, 2), (1,)]):
        with h5py.File(root / f"part_{number}.hdf5", "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": FPS}})
            data.attrs["language_instruction"] = TASKS[number]
            for rank, i in enumerate(episodes):
                _demo(data.create_group(f"demo_{10 * rank + 2}"), i, next_obs)
    return root


def _demo(group, episode, next_obs):
    state, action = vectors(episode)
    count = LENGTHS[episode]
    solved = SOLVED[episode]
    group["actions"] = action.astype(np.float64)
    group["rewards"] = np.float64([solved is not None and step >= solved for step in range(count)])
    group["dones"] = np.int64([step == count - 1 for step in range(count)])
    group["obs/eef_pos"], group["obs/gripper"] = state[:, :2], state[:, 2]
    group["obs/front_image"] = np.stack([frame(episode, step, "front") for step in range(count)])
    if next_obs:
        group["next_obs/eef_pos"] = np.roll(state[:, :2], -1, 0)
        group["next_obs/gripper"] = np.roll(state[:, 2], -1)
        following = [frame(episode, (step + 1) % count, "front") for step in range(count)]
        group["next_obs/front_image"] = np.stack(following)


def one_episode_a_file(root):
    """`action` and `observations/images/*`, with the observation after the last action."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(3):
        with h5py.File(root / f"episode_{i}.hdf5", "w") as file:
            state, action = vectors(i)
            file["action"] = action[:-1]
            file["observations/qpos"] = state
            images = [frame(i, step, "front") for step in range(LENGTHS[i])]
            file["observations/images/front"] = np.stack(images)
            file.attrs["fps"] = FPS
    return root


def edit_rows(folder, column, change):
    """Sets a column of a LeRobot dataset to `change(episode, step, value)` of each value."""
    for file in sorted(folder.glob("data/*/*.parquet")):
        table = pq.read_table(file)
        rows = zip(*(table[name].to_pylist() for name in ("episode_index", "frame_index", column)))
        values = pa.array([change(*row) for row in rows], table.schema.field(column).type)
        pq.write_table(table.set_column(table.column_names.index(column), column, values), file)


def edit_info(folder, **changes):
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename(folder, old, new):
    """Renames a feature of a LeRobot dataset."""
    path = folder / "meta/info.json"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    for file in folder.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        columns = [new if name == old else name for name in table.column_names]
        pq.write_table(table.rename_columns(columns), file)


def edit_clips(root, edge, change):
    """Changes where the parts of the wrist's video begin ("from") or end ("to").

    change: (episode, seconds) -> seconds.
    """
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        name = f"videos/observation.images.wrist/{edge}_timestamp"
        row[name] = change(row["episode_index"], row[name])
    pq.write_table(pa.Table.from_pylist(rows), path)


def spoil_frames(path, first=False):
    """Spoils bytes in the middle of a video's frames, or its first ones; the file opens as before."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    place = start if first else (start + content.index(b"moov")) // 2
    content[place : place + 40] = bytes(byte ^ 0x5A for byte in content[place : place + 40])
    path.write_bytes(content)


def shared_video(root, missing=()):
    """Writes the wrist's video that all episodes share, without the frames `missing`, {(episode, step)}."""
    frames = [
        frame(i, step, "wrist") for i in range(3) for step in range(LENGTHS[i]) if (i, step) not in missing
    ]
    video(root / "videos/observation.images.wrist/chunk-000/file-000.mp4", frames)
