"""`make bench-scale`: what the number of episodes costs: index, start, memory; and what feeds 8 accelerators.

- For 30,000 and 300,000 small episodes in one dataset, each measurement in a process of its own: CPU and
  seconds of the index by one process and by one a core, of what a file more costs, of a start with the index
  in its cache; memory of the index and of the process, and its growth over 2,000 batches of 32 x 8 frames.
  The files are hard links of one that the writer wrote, in a temporary folder: they lie in the page cache, so
  no disk is measured. The same figures are worked out for Open X's 2.4 million episodes.
- Frames/s of the loader by workers and threads, for images of 256x320 as the RT-1 data has them, and how many
  frames a second of CPU time gives; beside it what RT-1's network needs.

Writes experiments/results/bench_scale.json.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_loader, bench_memory, runs

RESULT = Path("experiments/results/bench_scale.json")
CORES = os.cpu_count() or 1
COUNTS, OPEN_X = (30_000, 300_000), 2_400_000
OF_A_FILE, TRANSITIONS = 1000, 10
BATCHES, ROWS = 2000, 32
RATES = [(workers, threads) for workers in (0, 1, CORES) for threads in (1, CORES)]
"""`config.data.workers` and `config.data.read_threads`."""
IMAGES_A_STEP, TFLOP_A_STEP, PEAK_TFLOPS = 64 * 12, 15.3, 989
"""RT-1's network on an H200: 64 segments of 12 frames, the FLOPs of the CUDA program, the published peak."""
NEEDED = {"at 40% MFU": 0.4 * PEAK_TFLOPS / TFLOP_A_STEP * IMAGES_A_STEP}
NEEDED["at the roofline, a third"] = NEEDED["at 40% MFU"] / 3
"""Images/s of one accelerator. The network's own roofline is memory's, at about a third of that."""


def write_file(folder: str) -> None:
    """Writes a dataset of one file: episodes of 10 steps with a 64x64 camera, of 20 instructions."""
    import simplejpeg

    from qt_jax.curation import rlds_writer
    from qt_jax.data.recorded import RecordedEpisode
    from qt_jax.specs import ActionSpec, ObservationSpec

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (20, 8, 8, 3), np.uint8)
    frames = [simplejpeg.encode_jpeg(np.repeat(np.repeat(one, 8, 0), 8, 1)) for one in coarse]

    def episodes():
        for number in range(OF_A_FILE):
            yield RecordedEpisode(
                task=f"task {number % 20}",
                collector="demonstration",
                index=number,
                instruction=f"move object {number % 20} to the shelf",
                images={"front": [frames[(number + step) % 20] for step in range(TRANSITIONS + 1)]},
                state=rng.normal(size=(TRANSITIONS + 1, 8)).astype(np.float32),
                actions=rng.uniform(-1, 1, (TRANSITIONS, 7)).astype(np.float32),
                rewards=np.asarray([0.0] * (TRANSITIONS - 1) + [1.0], np.float32),
                success=True,
                dt=0.1,
            )

    rlds_writer.write(
        folder,
        episodes(),
        action=ActionSpec([f"a{i}" for i in range(7)], [-1.0] * 7, [1.0] * 7, [256] * 7),
        observation=ObservationSpec(("front",), (64, 64), 8, "joints"),
        description="",
        file_format="array_record",
    )


def link(folder: Path, written: Path, files: int) -> None:
    """Makes a dataset of so many files, which are links to the one that was written."""
    shutil.rmtree(folder, ignore_errors=True)
    new, old = folder / "1.0.0", written / "1.0.0"
    new.mkdir(parents=True)
    (record,) = old.glob("*array_record*")
    for number in range(files):
        os.link(record, new / record.name.replace("00000-of-00001", f"{number:05d}-of-{files:05d}"))
    for file in old.glob("*.json"):
        shutil.copy(file, new)
    info = json.loads((new / "dataset_info.json").read_text())
    (split,) = info["splits"]
    split["shardLengths"] = split["shardLengths"] * files
    split["numBytes"] = str(int(split["numBytes"]) * files)
    (new / "dataset_info.json").write_text(json.dumps(info))


def prepare(folder: str, cache: str, workers: int) -> Any:
    """Returns the recipe of the dataset, as `train` makes it."""
    from qt_jax.training import datasets, setup
    from qt_jax.training.config import default_config

    config = default_config("q_transformer")
    config.data.path, config.data.cache, config.data.workers = folder, cache, workers
    return setup.prepare(config, datasets.entries(config))[1]


def cpu_s() -> float:
    """Returns the seconds of CPU that this process and its children that ended have taken."""
    return sum(os.times()[:4])


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start(folder: str, cache: str, workers: int) -> dict[str, float]:
    """Measures a start: with an index where the cache has it, else with the pass that makes it."""
    import qt_jax.training.setup  # what it imports is no part of the start

    assert qt_jax.training.setup
    gc.collect()
    before, cpu, begun = resident_mib(), cpu_s(), time.perf_counter()
    recipe = prepare(folder, cache, workers)
    found = {"seconds": time.perf_counter() - begun, "cpu_s": cpu_s() - cpu}
    (source,) = recipe.mixture.sources
    arrays = [*source.index.columns.values(), source.index.embeddings, source.train, source.validation]
    return found | {
        "episodes": len(source.index),
        "resident_mib": resident_mib() - before,
        "index_mib": sum(array.nbytes for array in arrays) / 2**20,
    }


def soak(folder: str, cache: str) -> dict[str, Any]:
    """Measures memory and CPU of 2,000 batches, with a start that has its index."""
    from qt_jax.data.loader import TrainingIterator

    recipe = prepare(folder, cache, 0)
    iterator = TrainingIterator(recipe, batch_size=ROWS, threads=CORES, memory=2**26)
    next(iterator)
    resident, cpu = [], cpu_s()
    for number in range(BATCHES):
        next(iterator)
        if number % 200 == 199:
            resident.append(resident_mib())
    cpu_ms = 1000 * (cpu_s() - cpu) / BATCHES
    iterator.close()
    half = resident[len(resident) // 2 :]
    slope = np.polyfit(np.arange(len(half)) / 5, half, 1)[0]
    return {
        "cpu_ms_a_batch": cpu_ms,
        "resident_mib": [round(x) for x in resident],
        "growth_mib_per_1000_batches": float(slope),
    }


def rate(workers: int, threads: int) -> dict[str, float]:
    """Measures the loader's frames/s, and frames in a second of CPU time of all its processes."""
    from qt_jax.data.loader import TrainingIterator

    config, recipe = bench_loader.recipe_of("rt1")
    iterator = TrainingIterator(
        recipe,
        batch_size=config.data.batch_size,
        threads=threads,
        workers=workers,
        memory=config.data.memory_mib * 2**20,
    )
    for _ in range(10):  # processes start, and episodes are read
        next(iterator)
    frames, cpu, begun = 0, bench_memory.tree_cpu_s(), time.perf_counter()
    while time.perf_counter() - begun < 20.0:
        frames += int(next(iterator).valid.sum())
    seconds, cpu = time.perf_counter() - begun, bench_memory.tree_cpu_s() - cpu
    iterator.close()
    return {
        "workers": workers,
        "threads": threads,
        "frames_per_s": frames / seconds,
        "frames_per_cpu_s": frames / cpu,
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of this file in a process of its own, and prints what it returns."""
    call = f"b.{function.__name__}(*{arguments!r})"
    script = f"import json; from benchmarks import bench_scale as b; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{function.__name__}{arguments}: {found}", flush=True)
    return found


def of_episodes(root: Path, count: int) -> dict[str, Any]:
    """Measures a dataset of so many episodes."""
    name, files = str(root / "episodes"), count // OF_A_FILE
    caches = {workers: str(root / f"cache_{count}_{workers}") for workers in (0, CORES)}
    link(Path(name), root / "file", files)
    found = {f"index_{workers}_workers": alone(start, name, caches[workers], workers) for workers in caches}
    found["start"] = alone(start, name, caches[0], 0)
    found["soak"] = alone(soak, name, caches[0])
    link(Path(name), root / "file", files + 1)
    found["start_one_file_more"] = alone(start, name, caches[0], 0)
    return found


def for_open_x(row: dict[str, Any], count: int) -> dict[str, float]:
    """Works out the figures of 2.4 million episodes from those of `count`, by its cost an episode."""
    factor = OPEN_X / count
    return {
        "index_cpu_min": row["index_0_workers"]["cpu_s"] * factor / 60,
        "start_cpu_s": row["start"]["cpu_s"] * factor,
        "index_mib": row["start"]["index_mib"] * factor,
    }


def main() -> None:
    results: dict[str, Any] = {"needed_frames_per_s": NEEDED}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        alone(write_file, str(root / "file"))
        for count in COUNTS:
            results[f"{count} episodes"] = of_episodes(root, count)
            runs.write(RESULT, **results)
    results["open_x"] = for_open_x(results[f"{COUNTS[-1]} episodes"], COUNTS[-1])

    bench_loader.need_rt1()
    results["rates"] = [alone(rate, *one) for one in RATES]
    best = max(one["frames_per_cpu_s"] for one in results["rates"])
    results["cores_of_8_accelerators"] = {name: 8 * needed / best for name, needed in NEEDED.items()}
    runs.write(RESULT, **results)


if __name__ == "__main__":
    main()
