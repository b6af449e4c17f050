"""`make bench-video`: how fast segments are decoded from the videos of a LeRobot folder.

For each way of encoding, in turns: frames/s of the loader, and of as many threads that only decode the same
video from its first frame to its last. The median ratio is written, and how many bytes were decoded for each
byte of a frame that was used. The video has 60 episodes of 60 frames of 240x320 in one file (version 3), and
is written by this script. Writes experiments/results/bench_video.json.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import runs

RESULT, FOLDER = Path("experiments/results/bench_video.json"), Path("data/bench_video")
THREADS = os.cpu_count()
ROUNDS, ROUND_S = 7, 3.0
EPISODES, FRAMES, FPS, SIZE = 60, 60, 30, (240, 320)
CODECS = {"av1": "libsvtav1", "h264": "libx264"}
ENCODINGS = [("av1", 2), ("av1", 30), ("h264", 2), ("h264", 12), ("h264", 30), ("h264", 250)]
"""Codec, and frames from one key frame to the next: 2 is LeRobot's own, 250 libx264's."""
CAMERA = "observation.images.front"


def write(root: Path, codec: str, keyframes: int) -> None:
    """Writes a LeRobot folder of version 3 with one camera."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{CAMERA}/chunk-000"):
        (root / folder).mkdir(parents=True)
    camera = {"dtype": "video", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            CAMERA: camera,
            "action": {"dtype": "float32", "shape": [7], "names": None},
            **{
                key: {"dtype": "int64", "shape": [1], "names": None}
                for key in ("episode_index", "task_index")
            },
        },
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": ["open the drawer"]}), root / "meta/tasks.parquet")
    place = {"chunk_index": 0, "file_index": 0}
    episodes = [
        {"episode_index": number, "length": FRAMES}
        | {f"data/{key}": value for key, value in place.items()}
        | {f"videos/{CAMERA}/{key}": value for key, value in place.items()}
        | {f"videos/{CAMERA}/from_timestamp": number * FRAMES / FPS}
        for number in range(EPISODES)
    ]
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(root / "data/chunk-000/file-000.parquet", _rows(rng, 0).schema) as file:
        for number in range(EPISODES):
            file.write_table(_rows(rng, number))
    _encode(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", rng, codec, keyframes)


def _rows(rng: np.random.Generator, number: int):
    import pyarrow as pa

    actions = rng.uniform(-1, 1, (FRAMES, 7)).astype(np.float32)
    whole = {"episode_index": [number] * FRAMES, "task_index": [0] * FRAMES}
    return pa.table({"action": pa.array(actions.tolist(), pa.list_(pa.float32())), **whole})


def _encode(path: Path, rng: np.random.Generator, codec: str, keyframes: int) -> None:
    """Encodes smooth random scenes, over which a window moves by a pixel a frame."""
    import av
    from PIL import Image

    with av.open(str(path), "w") as container:
        options = {"g": str(keyframes), "crf": "30"}
        stream = container.add_stream(CODECS[codec], FPS, options=options)
        (stream.height, stream.width), stream.pix_fmt = SIZE, "yuv420p"
        for _ in range(EPISODES):
            coarse = Image.fromarray(rng.integers(0, 255, (15, 20, 3), np.uint8))
            scene = np.asarray(coarse.resize((SIZE[1] + FRAMES, SIZE[0]), Image.Resampling.BICUBIC))
            for step in range(FRAMES):
                pixels = np.ascontiguousarray(scene[:, step : step + SIZE[1]])
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                    container.mux(packet)
        container.mux(stream.encode())


def measure(name: str) -> dict[str, float]:
    """Returns frames/s of the loader and of bare decoding, with one thread and with one a core."""
    from qt_jax.data.loader import TrainingIterator
    from qt_jax.training import datasets, setup
    from qt_jax.training.config import default_config

    config = default_config("q_transformer")
    config.data.path, config.data.segment_length = str(FOLDER / name), 12
    config.data.validation_fraction = 0.0
    recipe = setup.prepare(config, datasets.entries(config))[1]
    (video,) = (FOLDER / name).glob("videos/*/*/*.mp4")

    def loaded(iterator) -> float:
        start, frames = time.perf_counter(), 0
        while time.perf_counter() - start < ROUND_S:
            frames += int(next(iterator).valid.sum())
        return frames / (time.perf_counter() - start)

    def decode_all(_) -> int:
        import av

        frames = 0
        with av.open(str(video)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24", threads=1)
                frames += 1
        return frames

    def decoded(threads: int) -> float:
        start, frames = time.perf_counter(), 0
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            while time.perf_counter() - start < ROUND_S:
                frames += sum(pool.map(decode_all, range(threads)))
        return frames / (time.perf_counter() - start)

    results: dict[str, float] = {"mib": video.stat().st_size / 2**20}
    for threads in sorted({1, THREADS}):
        iterator = TrainingIterator(recipe, batch_size=32, threads=threads, memory=2**28)
        loaded(iterator)
        pairs = [(loaded(iterator), decoded(threads)) for _ in range(ROUNDS)]
        results |= {
            f"loader_frames_per_s_{threads}_threads": statistics.median(a for a, _ in pairs),
            f"decode_frames_per_s_{threads}_threads": statistics.median(b for _, b in pairs),
            f"ratio_{threads}_threads": statistics.median(a / b for a, b in pairs),
            "read_amplification": iterator.read_amplification(),
        }
        iterator.close()
    return results


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    results = {}
    for codec, keyframes in ENCODINGS:
        name = f"{codec}_{keyframes}"
        write(FOLDER / name, codec, keyframes)
        script = (
            f"import json; from benchmarks import bench_video as b; print(json.dumps(b.measure({name!r})))"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {results[name]}", flush=True)
    runs.write(RESULT, threads=THREADS, **results)


if __name__ == "__main__":
    main()
