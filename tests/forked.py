"""Commands in processes that are forked from one that has imported what commands import.

An import takes longer than what most tests of a command do. tests/docs, and the tests that start
`python -m qt_jax` themselves, begin with a new interpreter, as a user does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([f"qt_jax.cli.{name}" for name in ("collect", "train", "evaluate", "export")])


def run(arguments: list[str], folder: Path, timeout_s: float) -> subprocess.CompletedProcess:
    """Runs `python -m qt_jax` with these arguments in a folder.

    Raises:
        TimeoutError: it took longer, and was killed.

    """
    with tempfile.TemporaryDirectory() as kept:
        streams = Path(kept, "stdout"), Path(kept, "stderr")
        process = _FORKS.Process(target=_command, args=(arguments, folder, dict(os.environ), *streams))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments} took more than {timeout_s} s: {streams[1].read_text()[-3000:]}")
        output = (path.read_text() for path in streams)
        return subprocess.CompletedProcess(arguments, process.exitcode, *output)


def _command(arguments: list[str], folder: Path, environment: dict[str, str], *streams: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.argv[:] = ["qt_jax", *arguments]
    sys.path.insert(0, str(folder))
    runpy.run_module("qt_jax", run_name="__main__", alter_sys=True)
