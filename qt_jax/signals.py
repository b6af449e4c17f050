"""Signals that are heard during a compilation too; Python's own handlers wait until it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType


class Listener:
    """Context in which a thread calls a function as soon as its signal comes; an inner context goes first.

    calls: {signal: function}. Only the main thread may ask for signals; in another the context does nothing.
    """

    def __init__(self, calls: Mapping[int, Callable[[], None]]):
        self._calls = calls

    def __enter__(self) -> Listener:
        self._hears = threading.current_thread() is threading.main_thread()
        if self._hears:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            threading.Thread(target=self._listen, args=(self._reader,), name="signals", daemon=True).start()
            self._fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, _heard) for number in self._calls}
        return self

    def __exit__(self, *_) -> None:
        if self._hears:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._fd)
            os.close(self._writer)  # ends the thread

    def _listen(self, reader: int) -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:
                self._calls.get(number, _nothing)()
        os.close(reader)


def _heard(number: int, frame: FrameType | None) -> None:
    """Does nothing: the thread calls the signal's function."""


def _nothing() -> None:
    pass


def _in_child() -> None:
    """Undoes the handlers in a forked child, which would else write into its parent's pipe."""
    if signal.getsignal(signal.SIGTERM) is _heard:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(after_in_child=_in_child)
