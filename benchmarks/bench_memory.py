"""`make bench-memory`: memory of all reading processes together, by `config.data.memory_mib` and workers.

The episodes have 7 MB. Each measurement is a process of its own: the greatest proportional set size of its
whole tree while 40 batches are taken, once the workers have started. Beside the encoded episodes that are
kept it holds the programs, the index and the decoded batches, so what counts is the difference to
memory_mib=0. Writes experiments/results/bench_memory.json.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import runs

RESULT = Path("experiments/results/bench_memory.json")
DATA = Path("data/bench_memory")
EPISODES, STEPS, FRAME_BYTES = 100, 100, 70_000
BATCHES, ROWS = 40, 32


def write() -> None:
    """Writes small pictures, padded to the size of large ones: slow to read and quick to decode."""
    import simplejpeg

    from qt_jax.curation import rlds_writer
    from qt_jax.data.recorded import RecordedEpisode
    from qt_jax.specs import ActionSpec, ObservationSpec

    def episodes():
        rng = np.random.default_rng(0)
        for number in range(EPISODES):
            picture = simplejpeg.encode_jpeg(rng.integers(0, 255, (32, 32, 3), np.uint8))
            frames = [picture.ljust(FRAME_BYTES, b"\0")] * (STEPS + 1)
            yield RecordedEpisode(
                task="push",
                collector="demonstration",
                index=number,
                instruction="push the cube",
                images={"front": frames},
                state=np.zeros((STEPS + 1, 1), np.float32),
                actions=rng.uniform(-1, 1, (STEPS, 1)).astype(np.float32),
                rewards=np.float32([0] * (STEPS - 1) + [1]),
                success=True,
                dt=0.1,
            )

    observation = ObservationSpec(("front",), (32, 32), 1, "none")
    action = ActionSpec(("x",), (-1.0,), (1.0,), (256,))
    rlds_writer.write(
        str(DATA),
        episodes(),
        action=action,
        observation=observation,
        description="",
        file_format="array_record",
    )


def tree() -> Iterator[Path]:
    """Yields the folders in /proc of this process and of all that it started."""
    processes = [Path("/proc/self").resolve()]
    while processes:
        process = processes.pop()
        yield process
        for children in process.glob("task/*/children"):
            processes += [Path("/proc") / pid for pid in children.read_text().split()]


def tree_mib() -> float:
    """Measures the proportional set size of all of `tree`."""
    sizes = ((process / "smaps_rollup").read_text().split("Pss:")[1].split()[0] for process in tree())
    return sum(map(int, sizes)) / 1024


def tree_cpu_s() -> float:
    """Returns the seconds of CPU that all of `tree` have taken."""
    taken = ((process / "stat").read_text().rpartition(")")[2].split()[11:13] for process in tree())
    return sum(int(ticks) for pair in taken for ticks in pair) / os.sysconf("SC_CLK_TCK")


def measure(memory_mib: int, workers: int) -> dict[str, float]:
    from qt_jax.data.loader import TrainingIterator
    from qt_jax.training import datasets, setup
    from qt_jax.training.config import default_config

    config = default_config("q_transformer")
    config.data.path, config.data.memory_mib = str(DATA), memory_mib
    _, recipe, _ = setup.prepare(config, datasets.entries(config))
    iterator = TrainingIterator(
        recipe, batch_size=ROWS, threads=2, workers=workers, memory=memory_mib * 2**20
    )
    next(iterator)
    most = 0.0
    for _ in range(BATCHES):
        next(iterator)
        most = max(most, tree_mib())
    iterator.close()
    return {"memory_mib": memory_mib, "workers": workers, "tree_mib": round(most)}


def print_measure(memory_mib: int, workers: int) -> None:
    print(json.dumps(measure(memory_mib, workers)))


def main() -> None:
    if not DATA.exists():
        subprocess.run(
            [sys.executable, "-c", "from benchmarks import bench_memory; bench_memory.write()"], check=True
        )
    results = []
    for workers, memory in itertools.product((0, 2, 4), (0, 128, 512)):
        script = f"from benchmarks import bench_memory as b; b.print_measure({memory}, {workers})"
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    runs.write(RESULT, episodes=EPISODES, episode_mib=STEPS * FRAME_BYTES / 2**20, results=results)


if __name__ == "__main__":
    main()
