"""Runs several runs on this machine, some at a time; starts again what was preempted or lost a process."""

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
    """Runs the commands of runs in processes of their own, until each is finished or fails for good.

    Args:
        workers: how many runs at once.
        gpus: each run gets one of them (CUDA_VISIBLE_DEVICES); empty: every run sees all GPUs.
        restarts: how often a run is started again that was preempted, hung or lost a process.

    Attributes:
        stopped_by: number of the signal that ended it; 0: none.

    """

    def __init__(self, workers: int, gpus: Sequence[str] = (), restarts: int = 3):
        self._workers, self._restarts = min(workers, len(gpus) or workers), restarts
        self._stopping = threading.Event()
        self.stopped_by = 0
        self._gpus: queue.SimpleQueue[str] = queue.SimpleQueue()
        for gpu in gpus or [""] * self._workers:
            self._gpus.put(gpu)
        self._children: set[subprocess.Popen] = set()

    def __call__(self, runs: Sequence[Run]) -> dict[str, int]:
        """Returns the exit status of each run, once all have ended; 0: it is finished.

        SIGTERM and Ctrl-C are passed on: the runs save and exit.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with concurrent.futures.ThreadPoolExecutor(self._workers) as threads:
                return dict(zip((run.name for run in runs), threads.map(self._one, runs)))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: object) -> None:
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

            step = run.step()
            begins = f"continues after step {step}" if step else "starts"
            print(f"{run.name}: {begins}, log in {log.name}", flush=True)
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            child = subprocess.Popen(
                commands[0], stdout=log, stderr=log, env=environment, pass_fds=(lock,), start_new_session=True
            )
            self._children.add(child)
            if self._stopping.is_set():
                child.terminate()
            status = child.wait()
            status = 128 - status if status < 0 else status  # a signal's status, as in shells
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
    """Holds a run's lock, which the run's processes inherit.

    While one of them is left, even of a launcher that was killed, no other launcher starts the run.
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
    """Runs all of these runs, as `Launcher` does.

    Raises:
        UserError: if some run did not finish.
        SystemExit: with 75 after SIGTERM, with 130 after Ctrl-C.

    """
    launcher = Launcher(workers, gpus, restarts)
    statuses = launcher(runs)
    failed = {name: status for name, status in statuses.items() if status}
    if failed and launcher.stopped_by:
        left = f"{len(failed)} of {len(runs)} runs are left"
        print(f"launch: stopped; {left}, the same command continues with them", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED if launcher.stopped_by == signal.SIGINT else EXIT_PREEMPTED)
    if failed:
        shown = ", ".join(f"{name} (status {status})" for name, status in failed.items())
        raise UserError(f"{len(failed)} of {len(runs)} runs did not finish: {shown}; their log.txt says why.")
