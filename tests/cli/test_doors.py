"""What a person sees at the doors when something is wrong: one line, exit status 2, no traceback."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, door


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "qt_jax", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_usage_and_unknown_door():
    assert "collect" in run("--help").stdout and run("--help").returncode == 0
    result = run("fly")
    assert result.returncode == 2 and "unknown door 'fly'" in result.stderr


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("collect", ["--config.env.tasks=('fly',)"], "unknown tasks ['fly']"),
        ("train", ["--config.data.path=/nowhere"], "/nowhere holds no RLDS dataset"),
        ("train", ["--config.discount=2.0"], "config.discount is 2.0"),
        ("evaluate", ["--config.workdir=/nowhere"], "holds no checkpoint"),
    ],
)
def test_errors_are_one_line(name, overrides, message):
    result = door(name, *overrides, check=False)
    assert result.returncode == 2
    (line,) = [text for text in result.stderr.splitlines() if text.startswith(f"qt_jax {name}:")]
    assert message in line and "Traceback" not in result.stderr


def test_misspelt_setting_is_answered_with_the_nearest():
    result = door("train", "--config.trian.steps=3", check=False)
    assert result.returncode != 0 and "train" in result.stderr


def test_collect_refuses_to_overwrite(dataset_path):
    result = door("collect", f"--config.data.path={dataset_path}", check=False)
    assert result.returncode == 2 and "already holds a dataset" in result.stderr


def group_lives(leader):
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_collection_interrupted_by_ctrl_c_leaves_no_dataset_and_no_process(tmp_path):
    """The real door with its workers, when the first episodes are done."""
    command = [sys.executable, "-m", "qt_jax", "collect", "--config=tests/tiny.py", f"--config.data.path={tmp_path}/x"]
    command += ["--config.collect.demonstrations=500", "--config.collect.workers=2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for piece in iter(lambda: process.stderr.read(20), ""):
        if re.search(r" [1-9]\d*/", piece):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the door and its workers
    rest = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "interrupted" in rest and "Traceback" not in rest
    deadline = time.monotonic() + 20
    while group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the door"
        time.sleep(0.1)
    result = door("train", f"--config.data.path={tmp_path}/x", check=False)
    assert result.returncode == 2 and "holds no RLDS dataset" in result.stderr
