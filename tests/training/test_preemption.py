"""SIGTERM and Ctrl-C at any time: what the listener hears, what a training makes of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED
from qt_jax.signals import Listener
from qt_jax.training import validation
from qt_jax.training.peers import Peers
from qt_jax.training.preemption import Preemption
from tests.conftest import ROOT

# The main thread is in C for minutes, as in a compilation: Python's own handlers would wait for its end.
START_UP = """
import ctypes, sys
from qt_jax.training.peers import Peers
from qt_jax.training.preemption import Preemption
with Preemption(Peers()) as preemption:
    print("ready", flush=True)
    ctypes.CDLL(None).sleep(20)
    ctypes.CDLL(None).sleep(20)
"""


@pytest.mark.parametrize(
    "number, status, word",
    [(signal.SIGTERM, EXIT_PREEMPTED, "told to stop"), (signal.SIGINT, EXIT_INTERRUPTED, "interrupted")],
)
def test_a_signal_in_start_up_ends_at_once_with_one_line(number, status, word):
    process = subprocess.Popen(
        [sys.executable, "-c", START_UP], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=15)
    (line,) = errors.splitlines()
    assert (
        process.returncode == status
        and f"{word} before the first step, so that there is nothing to save" in line
    )


def until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize(
    "number, status", [(signal.SIGTERM, EXIT_PREEMPTED), (signal.SIGINT, EXIT_INTERRUPTED)]
)
def test_a_signal_while_training_is_answered_after_the_step(number, status):
    before = signal.getsignal(number)
    with Preemption(Peers()) as preemption:
        preemption.begin()
        assert not preemption.due(1) and not preemption.requested()
        os.kill(os.getpid(), number)
        until(preemption.requested)
        assert preemption.due(2) == status
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's second notice changes nothing
        time.sleep(0.1)
        assert preemption.due(3) == status
    assert signal.getsignal(number) is before


def test_listeners_within_each_other_take_turns_and_strange_signals_pass():
    heard = []
    with Listener({signal.SIGUSR1: lambda: heard.append("outer")}):
        with Listener({signal.SIGUSR1: lambda: heard.append("inner")}):
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: heard == ["inner"])
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: heard == ["inner", "outer"])
    assert signal.set_wakeup_fd(-1) == -1


def test_a_listener_in_another_thread_hears_nothing_and_does_no_harm():
    failed = []

    def run():
        try:
            with Preemption(Peers()) as preemption:
                preemption.begin()
                failed.append(preemption.due(1))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == [0]


def test_validation_ends_where_the_run_is_told_to_stop(monkeypatch):
    monkeypatch.setattr(validation.mesh, "local_rows", lambda *_: None)
    monkeypatch.setattr(validation.validation_segments, "batches", lambda *_, **__: iter([1, 2, 3]))
    of_run = validation.Validation(None, {"arm": []}, {}, None, None, 1)
    assert of_run.measure(None, None, stop=lambda: True) is None
