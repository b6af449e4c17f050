"""Workers of a parent that was killed."""

import subprocess
import sys

from tests.conftest import ROOT, assert_group_ends

POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from qt_jax import children
with ProcessPoolExecutor(1, get_context("spawn"), children.end_with_parent) as pool:
    print(pool.submit(abs, -1).result(), flush=True)
    input()
"""


def test_a_worker_ends_when_its_parent_is_killed():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", POOL], cwd=ROOT, start_new_session=True, **pipes) as parent:
        assert parent.stdout.readline() == "1\n"  # the worker is there
        parent.kill()
    assert_group_ends(parent.pid)
