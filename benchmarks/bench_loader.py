"""`make bench-loader`: the data pipeline's speed and memory, and how long the learner waits for it.

Three parts, each in a process of its own:
- throughput: frames/s of the loader with one thread and with one a core, and of as many threads that only
  decode the JPEGs of the same segments, in turns; the median ratio. For the quickstart's 64x64 images and for
  images of 256x320 as the RT-1 data has them (written by this benchmark).
- soak: resident memory while 20,000 batches are taken.
- wait: the share of the learner's time spent waiting for data, over short runs of the quickstart and of the
  RT-1-size network.
Writes experiments/results/bench_loader.json.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import runs

RESULT = Path("experiments/results/bench_loader.json")
THREADS = os.cpu_count()
ROUNDS, ROUND_S = 7, 3.0
SOAK_BATCHES = 20_000
SIZES = ("quickstart", "rt1")


def config_of(name: str):
    from experiments import quickstart

    config = quickstart.get_config()
    if name == "rt1":
        config.data.path, config.data.segment_length = "data/bench_rt1", 12
        config.data.balance.demonstrations = None
        del config.env  # the dataset describes itself
    config.data.read_threads = THREADS
    return config


def recipe_of(name: str):
    from qt_jax.training import datasets, setup

    config = config_of(name)
    return config, setup.prepare(config, datasets.entries(config))[1]


def write_rt1() -> None:
    """Writes 60 episodes of 30 steps of smooth random images, JPEG quality 95 as `collect` has."""
    from PIL import Image

    from qt_jax.curation import rlds_writer
    from qt_jax.data.recorded import RecordedEpisode
    from qt_jax.envs import collectors
    from qt_jax.specs import ActionSpec, ObservationSpec

    rng = np.random.default_rng(0)

    def frame() -> bytes:
        coarse = Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8))
        return collectors._jpeg(np.asarray(coarse.resize((320, 256), Image.Resampling.BICUBIC)))

    def episodes():
        for number in range(60):
            yield RecordedEpisode(
                task="task",
                collector="demonstration",
                index=number,
                instruction="open the drawer",
                images={"front": [frame() for _ in range(31)]},
                state=np.zeros((31, 0), np.float32),
                actions=rng.uniform(-1, 1, (30, 8)).astype(np.float32),
                rewards=np.asarray([0.0] * 29 + [1.0], np.float32),
                success=True,
                dt=1 / 3,
            )

    action = ActionSpec([f"a{i}" for i in range(8)], [-1.0] * 8, [1.0] * 8, [256] * 8)
    observation = ObservationSpec(("front",), (256, 320), 0, "")
    rlds_writer.write(
        "data/bench_rt1",
        episodes(),
        action=action,
        observation=observation,
        description="",
        file_format="array_record",
    )


def throughput(name: str) -> dict[str, float]:
    from qt_jax.data.images import decode
    from qt_jax.data.loader import SegmentReader, TrainingIterator
    from qt_jax.data.order import Reader

    config, recipe = recipe_of(name)
    rows, memory = config.data.batch_size, config.data.memory_mib * 2**20
    iterators = {
        n: TrainingIterator(recipe, batch_size=rows, threads=n, memory=memory) for n in sorted({1, THREADS})
    }

    def loaded(iterator) -> float:
        start, frames = time.perf_counter(), 0
        while time.perf_counter() - start < ROUND_S:
            frames += int(next(iterator).valid.sum())
        return frames / (time.perf_counter() - start)

    reader, draws, jpegs = SegmentReader(recipe, 2**40), Reader(iterators[1].order, np.arange(rows)), []
    for draw in (draw for number in range(8) for draw in draws.batch(number)):
        start = draw.cut * recipe.cutting.stride
        jpegs += [
            f
            for frames in reader.episode(draw).episode.images.values()
            for f in frames[start : start + recipe.cutting.length]
        ]
    parts = np.array_split(np.asarray(jpegs, object), 8 * THREADS)

    def decode_all(part) -> None:
        for image in part:  # each is dropped at once, else the machine's memory is what is measured
            decode(image)

    def decoded(threads: int) -> float:
        start, frames = time.perf_counter(), 0
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            while time.perf_counter() - start < ROUND_S:
                list(pool.map(decode_all, parts))
                frames += len(jpegs)
        return frames / (time.perf_counter() - start)

    results = {}
    for threads, iterator in iterators.items():
        loaded(iterator)  # reads what fits into memory
        pairs = [(loaded(iterator), decoded(threads)) for _ in range(ROUNDS)]
        results |= {
            f"loader_frames_per_s_{threads}_threads": statistics.median(a for a, _ in pairs),
            f"decode_frames_per_s_{threads}_threads": statistics.median(b for _, b in pairs),
            f"ratio_{threads}_threads": statistics.median(a / b for a, b in pairs),
        }
        iterator.close()
    return results


def soak(name: str) -> dict[str, float]:
    from qt_jax.data.loader import TrainingIterator

    config, recipe = recipe_of(name)
    # It keeps no episode that it can drop.
    iterator = TrainingIterator(recipe, batch_size=config.data.batch_size, threads=THREADS)
    resident = []
    for number in range(SOAK_BATCHES):
        next(iterator)
        if number % 1000 == 999:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    iterator.close()
    slope = np.polyfit(np.arange(len(resident) // 2), resident[len(resident) // 2 :], 1)[0]
    return {
        "batches": SOAK_BATCHES,
        "resident_mib": [round(x) for x in resident],
        "growth_mib_per_1000_batches": float(slope),
    }


def wait(name: str) -> dict[str, float]:
    """Trains by the command. The first reading is left out: it holds the start of the pipeline."""
    workdir = Path(f"runs/bench_loader/{name}")
    subprocess.run(["rm", "-rf", str(workdir)], check=True)
    steps = {"quickstart": 300, "rt1": 6}[name]
    settings = {"steps": steps, "log_every": max(1, steps // 6), "validate_every": steps + 1}
    flags = [f"--config.train.{key}={value}" for key, value in settings.items()]
    runs.command("train", f"benchmarks/bench_loader.py:{name}", f"--config.workdir={workdir}", *flags)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    shares = [record["data_wait_share"] for record in records if "data_wait_share" in record][1:]
    return {"data_wait_share": statistics.median(shares), "worst": max(shares), "readings": len(shares)}


def get_config(name: str):
    """Returns the config of `wait`, as an experiment file does."""
    from qt_jax.models import q_transformer as model

    config = config_of(name)
    if name == "rt1":
        config.model = model.paper()
        config.model.update(
            image_size=224, dtype="float32", remat="none", encoder_remat="none", scan_layers=False
        )
        config.data.batch_size, config.data.segment_length, config.data.validation_fraction = 2, 18, 0.0
    return config


PARTS = {f.__name__: f for f in (throughput, soak, wait)}


def need_rt1() -> None:
    """Writes the images of the RT-1 data where they are not there, in a process with TensorFlow."""
    if not Path("data/bench_rt1").exists():
        subprocess.run(
            [sys.executable, "-c", "from benchmarks import bench_loader; bench_loader.write_rt1()"],
            check=True,
        )


def main() -> None:
    need_rt1()
    results = {}
    for part, name in itertools.product(PARTS, SIZES):
        if (part, name) == ("soak", "rt1"):  # the same code, and an hour
            continue
        call = f"b.PARTS[{part!r}]({name!r})"
        script = f"import json; from benchmarks import bench_loader as b; print(json.dumps({call}))"
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        results[f"{part} {name}"] = json.loads(done.stdout.splitlines()[-1])
        print(f"{part} {name}: {results[f'{part} {name}']}", flush=True)
        runs.write(RESULT, threads=THREADS, **results)


if __name__ == "__main__":
    main()
