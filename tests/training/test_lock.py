"""One training at a time in a run's directory."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from qt_jax.errors import UserError
from qt_jax.training import lock
from tests.conftest import ROOT

HOLD = """
import sys, time
from qt_jax.training import lock
held = lock.take(sys.argv[1], 0.0)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
    """A lease whose beats are short."""
    monkeypatch.setattr(lock, "_BEAT_S", 0.05)
    monkeypatch.setattr(lock, "_SILENT_S", 0.3)


@pytest.fixture(params=["file", "lease"])
def kind(request, monkeypatch, quick):
    """Of the file system: with locks of the operating system, or without."""
    if request.param == "lease":

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    return request.param


def test_a_second_training_is_refused_by_name_while_the_first_lives(tmp_path, kind, capfd):
    first = lock.take(str(tmp_path / "run"), 0.0)
    with pytest.raises(
        UserError,
        match=rf"run is in use by another training: process {os.getpid()} on .* has it since 2.*UTC|\+00:00",
    ):
        lock.take(str(tmp_path / "run"), 0.3)
    assert "waiting up to config.train.lock_wait_s=0.3 s for its end" in capfd.readouterr().err
    first.check()
    first.close()
    lock.take(str(tmp_path / "run"), 0.0).close()


def test_a_second_training_waits_for_the_end_of_the_first(tmp_path, kind):
    first = lock.take(str(tmp_path), 0.0)
    threading.Timer(0.5, first.close).start()
    lock.take(str(tmp_path), 20.0).close()


def test_a_killed_training_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on"):
        lock.take(str(tmp_path), 0.0)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / lock.NAME).exists()
    lock.take(str(tmp_path), 0.0).close()


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["of another machine", "dead on this machine"])
def test_a_lease_of_a_dead_process_is_taken(tmp_path, quick, monkeypatch, pid):
    alive = pid == os.getpid()
    holder = {
        "host": "h",
        "pid": pid,
        "since": "then",
        "id": "x",
        "beat": 3,
        "machine": "another" if alive else lock._machine(),
    }
    (tmp_path / lock.NAME).write_text(json.dumps(holder))
    taken = lock.Lease(lock.storage.directory(str(tmp_path)), 0.0)
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    taken.close()
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "\0\0"])
def test_a_lock_that_was_not_written_whole_does_no_harm(tmp_path, kind, content):
    (tmp_path / lock.NAME).write_text(content)
    lock.take(str(tmp_path), 0.0).close()


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
def test_a_directory_that_is_deleted_while_training_is_one_line(tmp_path, kind, again):
    run = tmp_path / "run"
    held = lock.take(str(run), 0.0)
    shutil.rmtree(run)
    if again:
        other = lock.take(str(run), 0.0)
    if kind == "lease":
        held._thread.join(5.0)  # it finds out at a beat
    with pytest.raises(UserError, match="run was deleted, moved or taken by another training"):
        held.check()
    held.close()
    if again:
        other.check()
        other.close()


def test_a_lock_that_alone_was_deleted_is_made_again(tmp_path):
    held = lock.take(str(tmp_path), 0.0)
    (tmp_path / lock.NAME).unlink()
    held.check()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        lock.take(str(tmp_path), 0.0)
    held.close()
    lock.take(str(tmp_path), 0.0).close()


def test_a_deleted_lock_that_another_took_ends_the_training(tmp_path):
    held = lock.take(str(tmp_path), 0.0)
    (tmp_path / lock.NAME).unlink()
    other = lock.take(str(tmp_path), 0.0)
    with pytest.raises(UserError, match="taken by another training"):
        held.check()
    held.close()
    other.check()
    other.close()


def test_the_other_processes_of_a_run_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    lock.take(str(tmp_path), 0.0)
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    lock.take(str(tmp_path), 0.0).check()


def test_a_directory_without_permission_is_one_line(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock.os, "open", denied)
    with pytest.raises(UserError, match="train.lock cannot be written: access is not permitted"):
        lock.take(str(tmp_path), 0.0)
