"""Several runs on this machine, so many at once.

Each is started again where it was stopped or lost its process.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from launch.runs import AGAIN, Run
from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, UserError


class Launcher:
    """Args: workers: runs at once. gpus: of which each run has one at a time (CUDA_VISIBLE_DEVICES); (): runs
    see all there is. restarts: of a run that was preempted, hung or lost a process.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = (), restarts: int = 3):
        self._workers, self._restarts, self._stopping = (
            min(workers, len(gpus) or workers),
            restarts,
            threading.Event(),
        )
        self.stopped_by = 0  # a signal
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for gpu in gpus or [""] * self._workers:
            self._gpus.put(gpu)
        self._children: set[subprocess.Popen] = set()

    def __call__(self, runs: Sequence[Run]) -> dict[str, int]:
        """Exit status of each run that was not finished yet, when all have ended.

        SIGTERM and Ctrl-C have them save and leave.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with concurrent.futures.ThreadPoolExecutor(self._workers) as threads:
                return dict(zip((run.name for run in runs), threads.map(self._one, runs)))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _) -> None:
        self.stopped_by = number
        self._stopping.set()
        for child in list(self._children):
            child.terminate()

    def _one(self, run: Run) -> int:
        directory = run.logs
        directory.mkdir(parents=True, exist_ok=True)
        gpu = self._gpus.get()
        try:
            with _alone(directory) as lock, open(directory / "log.txt", "a") as log:
                if run.finished():
                    print(f"{run.name}: finished before", flush=True)
                    return 0
                return self._until_done(run, gpu, lock, log)
        finally:
            self._gpus.put(gpu)

    def _until_done(self, run: Run, gpu: str, lock: int, log: TextIO) -> int:
        status, restarts = 0, 0
        commands = run.commands(sys.executable)
        while commands:
            if self._stopping.is_set():
                return EXIT_PREEMPTED
            print(
                f"{run.name}: {'continues after step ' + str(run.step()) if run.step() else 'starts'}, log in {log.name}",
                flush=True,
            )
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            child = subprocess.Popen(
                commands[0], stdout=log, stderr=log, env=environment, pass_fds=(lock,), start_new_session=True
            )
            self._children.add(child)
            if self._stopping.is_set():
                child.terminate()
            status = child.wait()
            status = 128 - status if status < 0 else status  # of a signal, as shells count it
            self._children.remove(child)
            if status == 0:
                commands = commands[1:]
            elif status in AGAIN and restarts < self._restarts and not self._stopping.is_set():
                restarts += 1
            else:
                print(f"{run.name}: stopped with status {status}; {_last_line(log.name)}", flush=True)
                return status
        print(f"{run.name}: finished", flush=True)
        return 0


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[int]:
    """A lock that a run's processes inherit: while one is left, of a launcher that was killed too, nobody
    else starts the run.
    """
    lock = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _last_line(log: str) -> str:
    lines = Path(log).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"


def launch(runs: Sequence[Run], workers: int, gpus: Sequence[str], restarts: int) -> None:
    """Raises a UserError if some run did not finish; ends with 75 or 130 where SIGTERM or Ctrl-C came."""
    if workers < 1:
        raise UserError(f"--workers is {workers}; expected at least 1.")
    launcher = Launcher(workers, gpus, restarts)
    statuses = launcher(runs)
    failed = {name: status for name, status in statuses.items() if status}
    if failed and launcher.stopped_by:
        print(
            f"launch: told to stop; {len(failed)} of {len(runs)} runs are left, the same command continues with them",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_INTERRUPTED if launcher.stopped_by == signal.SIGINT else EXIT_PREEMPTED)
    if failed:
        shown = ", ".join(f"{name} (status {status})" for name, status in failed.items())
        raise UserError(f"{len(failed)} of {len(runs)} runs did not finish: {shown}; their log.txt says why.")
