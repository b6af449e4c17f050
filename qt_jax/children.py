"""Worker processes that end with the process that started them, however that one ends."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Makes this process of `multiprocessing` end when its parent has; for the initializer of a pool.

    A worker of a parent that was killed waits for work for ever otherwise.
    """
    parent = multiprocessing.parent_process()
    assert parent, "this is no process of multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
