"""A call in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_thread(function: Callable[..., Any], *inputs: Any, name: str) -> Future:
    """Runs a function in a daemon thread of that name, which keeps no program from ending."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*inputs))
        except BaseException as error:  # the waiter gets it
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
