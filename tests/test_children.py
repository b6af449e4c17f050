"""Workers of a parent that was killed."""

import os
import subprocess
import sys
import time

from tests.conftest import ROOT

POOL = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from qt_jax import children
with ProcessPoolExecutor(1, get_context("spawn"), children.end_with_parent) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    input()
"""


def test_a_worker_ends_when_its_parent_is_killed():
    command = [sys.executable, "-c", POOL]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it is there
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived its parent")
