"""Metrics to a JSONL file, TensorBoard, Weights & Biases and a line on the terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import Iterator

import jax
from etils import epath

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.training.tracking import Tracker


class MetricWriter:
    """`metrics.jsonl` (one object a line) and TensorBoard event files in the run's directory. Only the first process writes.

    Args:
        step: where the run continues; records of later steps, which it will write again, are dropped.
        tracker: that is told too, and closed with this.
    """

    def __init__(self, workdir: str, step: int, tracker: Tracker | None):
        from tensorboardX import SummaryWriter

        self._board, self._tracker = None, tracker
        if jax.process_index():
            return
        self._path = epath.Path(workdir) / "metrics.jsonl"
        before = self._path.read_text().splitlines() if self._path.exists() else []
        self._lines = [line for line in before if json.loads(line)["step"] <= step]
        self._board = SummaryWriter(f"{workdir}/tensorboard", purge_step=step + 1 if before else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._board:
            self._lines.append(json.dumps({"step": step, "time": time.time(), **values}))
            storage.replace_text(self._path, "".join(line + "\n" for line in self._lines))  # an object store cannot append
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            if self._tracker:
                self._tracker.write(step, values)

    def close(self) -> None:
        if self._board:
            self._board.close()
        if self._tracker:
            self._tracker.close()


def first_start(workdir: str) -> float:
    """Seconds since the epoch at which a run in `workdir` was first started; now, if this is it. (Of the first process's clock.)"""
    stamp, now = epath.Path(workdir) / "first_start", time.time()
    if jax.process_index() == 0 and not stamp.exists():
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(repr(now))
    return float(stamp.read_text()) if jax.process_index() == 0 else now


class Meter:
    """Speed since the last reading, and goodput since the run's very first start.

    Productive is the time of steps that the run kept: not compilation, validation, saving, restarts, nor steps lost with a process.

    Args:
        born: `first_start` of the run. productive_s: what the checkpoint that it continues from had (its item `clock`).
        flops: of one step (`program.step_flops`). peak: FLOP/s of all devices together.
    """

    def __init__(self, born: float, productive_s: float, flops: float, peak: float):
        self._born = born
        self.productive_s, self._flops, self._peak = productive_s, flops, peak
        self._steps, self._elapsed, self._waited = 0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._steps, self._elapsed, self.productive_s = self._steps + 1, self._elapsed + seconds, self.productive_s + seconds

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def read(self, transitions: float) -> dict[str, float]:
        """transitions: trainable ones of one step."""
        rate = self._steps / self._elapsed
        values = {
            "steps_per_s": rate,
            "transitions_per_s": rate * transitions,
            "data_wait_share": self._waited / self._elapsed,
            "mfu": rate * self._flops / self._peak,
            "goodput": self.productive_s / max(time.time() - self._born, 1e-9),
        }
        self._steps, self._elapsed, self._waited = 0, 0.0, 0.0
        return values


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises a UserError that names the step and the first term that is NaN or Inf."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"Step {step}: {name} is {value}; training stopped and this state is not saved. Lower config.optimizer.learning_rate, or "
                "look at the data with this step's batch."
            )


def progress(step: int, steps: int, values: dict[str, float]) -> None:
    """One line, rewritten on a terminal, a line each on a log, with the time left by `steps_per_s`. Only the first process prints."""
    if jax.process_index():
        return
    shown = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in values.items())
    left = datetime.timedelta(seconds=round((steps - step) / values["steps_per_s"]))
    end = "\r" if sys.stdout.isatty() and step < steps else "\n"
    print(f"step {step}/{steps}  {shown}  left {left}", end=end, flush=True)
