"""`make bench-start`: what a run computes before its first step, at the quickstart's and RT-1's size.

Seconds of processor time of each part, each size in a process of its own without a cache of compiled
programs: tracing is Python's, compiling is XLA's (on every core; a cache saves it at the next start). Reading
the dataset and imports are left out. At RT-1's size compilation takes minutes on a CPU, so it is
left out there. Writes experiments/results/bench_start.json.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks import runs
from benchmarks.learner_step import shipped
from qt_jax import agents
from qt_jax.training import mesh, program, setup

RESULTS = Path("experiments/results/bench_start.json")
SIZES = {"quickstart": "quickstart", "rt1": "sizes"}
"""Experiment files of the sizes."""


class Clock:
    """Counts the processor time of this process, and how much of it was compilation."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._compiling = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self._compiling += seconds

    def part(self, name: str, do: Callable[[], Any]) -> Any:
        """Does a part and notes its seconds."""
        self._compiling, start, begun = 0.0, time.process_time(), time.perf_counter()
        made = do()
        self.parts[name] = {
            "wall_s": time.perf_counter() - begun,
            "processor_s": time.process_time() - start,
            "compiling_s": self._compiling,
        }
        return made


def measure(size: str) -> dict[str, Any]:
    """Returns the seconds of each part of a start at this size, {part: {what: seconds}}."""
    config, interface = shipped(SIZES[size])
    config = setup.with_value_range(config, config.dt_ref)
    jax.block_until_ready(jax.numpy.ones(()))
    clock, devices = Clock(), mesh.make_mesh(config.mesh)
    ensemble = clock.part("network", lambda: agents.make_ensemble(config, interface))
    left_out = mock.patch.object(jax.stages.Lowered, "compile") if size == "rt1" else contextlib.nullcontext()

    def build() -> program.Program:
        return program.build(config, ensemble, devices, fresh=True)

    with left_out:
        built = clock.part("step and initial state", build)
    clock.part("FLOPs", lambda: program.step_flops(config, ensemble, built.state, built.batch))
    return clock.parts


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    commit = runs.code_commit("benchmarks")
    found = {}
    for size in SIZES:
        own = [sys.executable, "-m", "benchmarks.bench_start", size]
        found[size] = json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
