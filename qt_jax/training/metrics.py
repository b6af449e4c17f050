"""Writes metrics to a JSONL file, TensorBoard, Weights & Biases and the terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import Iterator

import jax
from tensorboardX.proto import event_pb2, summary_pb2

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.training.tracking import Tracker

_REWRITE_S = 60.0


class MetricWriter:
    """Writes `metrics.jsonl` (one object a line) and TensorBoard event files into the run's directory.

    Only the first process writes. A file in an object store cannot grow: there it is written again once a
    minute, and whenever it is flushed.

    Args:
        workdir: the run's directory.
        step: where the run continues; records of later steps, which it will write again, are dropped.
        tracker: gets the same metrics, and is closed with this.

    """

    def __init__(self, workdir: str, step: int, tracker: Tracker | None):
        self._board, self._tracker = None, tracker
        if jax.process_index():
            return
        self._path = storage.directory(workdir) / "metrics.jsonl"
        self._unwritten, self._written_at = 0, time.monotonic()
        with storage.writing(self._path):
            before = storage.json_lines(self._path)
            kept = [record for record in before if record.get("step", math.inf) <= step]
            self._kept = [json.dumps(record) + "\n" for record in kept]
            if self._path.exists():
                storage.replace_text(self._path, "".join(self._kept))
            self._board = _Board(f"{workdir}/tensorboard", step + 1 if before else None)
        if storage.can_append(self._path):
            self._kept = []

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of a step; raises a UserError if they cannot be written."""
        if not self._board:
            return
        line = json.dumps({"step": step, "time": time.time(), **values})
        if storage.can_append(self._path):
            storage.append_line(self._path, line)
        else:
            self._kept.append(line + "\n")
            self._unwritten += 1
            if time.monotonic() - self._written_at > _REWRITE_S:
                self.flush()
        with storage.writing(self._path.parent / "tensorboard"):
            self._board.write(step, values)
        if self._tracker:
            self._tracker.write(step, values)

    def flush(self) -> None:
        """Writes what waits.

        To be called before a checkpoint, so that no checkpoint is of a later step than the metrics.
        """
        if self._board and self._unwritten:
            with storage.writing(self._path):
                storage.replace_text(self._path, "".join(self._kept))
            self._unwritten, self._written_at = 0, time.monotonic()

    def close(self) -> None:
        """Flushes, and closes all files and the tracker."""
        self.flush()
        if self._board:
            self._board.close()
        if self._tracker:
            self._tracker.close()


class _Board:
    """TensorBoard's event file, written in the caller's thread.

    tensorboardX's own thread dies when the disk is full, and the next write then waits for ever.

    Args:
        folder: where the file goes.
        purge_step: events of this and later steps, in earlier files, no longer count.

    """

    def __init__(self, folder: str, purge_step: int | None):
        from tensorboardX.event_file_writer import EventsWriter, directory_check

        directory_check(folder)
        self._file, self._flushed_at = EventsWriter(f"{folder}/events"), time.monotonic()
        self._every_s = _REWRITE_S if "://" in folder else 0.0  # where a flush writes the whole file
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(event_pb2.Event(step=purge_step, session_log=start))

    def _add(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)

    def write(self, step: int, values: dict[str, float]) -> None:
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=scalars)))
        if time.monotonic() - self._flushed_at >= self._every_s:
            self._file.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        self._file.close()


def first_start(workdir: str) -> float:
    """Returns when the run in `workdir` was first started, in seconds since the epoch.

    The first process writes it down at its first start. A stamp that cannot be read (the disk was full) is
    made again from `starts.jsonl`.
    """
    folder, now = storage.directory(workdir), time.time()
    stamp = folder / "first_start"
    if jax.process_index():
        return now
    with storage.writing(stamp):
        if stamp.exists():
            with contextlib.suppress(ValueError):
                if math.isfinite(born := float(stamp.read_text())):
                    return born
        starts = [start["time"] for start in storage.json_lines(folder / "starts.jsonl") if "time" in start]
        born = min([now, *starts])
        folder.mkdir(parents=True, exist_ok=True)
        storage.replace_text(stamp, repr(born))
    return born


class Meter:
    """Measures speed since the last reading, and goodput since the run's very first start.

    Goodput is the share of time that was productive: spent on steps that the run kept, and not on
    compilation, validation, saving, restarts, or steps that were lost with a process.

    Args:
        born: `first_start` of the run.
        productive_s: productive seconds before, from the checkpoint's item `clock`.
        flops: of one step (`program.step_flops`).
        peak: FLOP/s of all devices together.

    """

    def __init__(self, born: float, productive_s: float, flops: float, peak: float):
        self._born = born
        self.productive_s, self._flops, self._peak = productive_s, flops, peak
        self._steps, self._elapsed, self._waited = 0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Times one step, with its wait for data."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._steps += 1
        self._elapsed += seconds
        self.productive_s += seconds

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        """Times the wait for data within a step."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def read(self, transitions: float) -> dict[str, float]:
        """Returns the metrics since the last reading; `transitions` are the trainable ones of one step."""
        rate = self._steps / self._elapsed
        values = {
            "steps_per_s": rate,
            "transitions_per_s": rate * transitions,
            "data_wait_share": self._waited / self._elapsed,
            "mfu": rate * self._flops / self._peak,
            # If the clock was put back, less time has passed than was productive.
            "goodput": self.productive_s / max(time.time() - self._born, self.productive_s, 1e-9),
        }
        self._steps, self._elapsed, self._waited = 0, 0.0, 0.0
        return values


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises a UserError that names the step and the first metric that is NaN or Inf."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"Step {step}: {name} is {value}; training stopped and this state is not saved. Lower "
                "config.optimizer.learning_rate and start again: the run goes on from its last checkpoint "
                "(from the beginning if it has none), with the optimiser, target network and position in the "
                "data that it has. Or look at the data of this step.",
                topic="not-finite",
            )


def progress(step: int, steps: int, values: dict[str, float]) -> None:
    """Prints a line, rewritten in place on a terminal, with the time left by `steps_per_s`.

    Only the first process prints.
    """
    if jax.process_index():
        return
    shown = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in values.items())
    left = datetime.timedelta(seconds=round((steps - step) / values["steps_per_s"]))
    end = "\r" if sys.stdout.isatty() and step < steps else "\n"
    print(f"step {step}/{steps}  {shown}  left {left}", end=end, flush=True)
