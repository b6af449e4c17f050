"""Prometheus metrics and JSON log lines of a server."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import queue
import sys
import threading
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """One server's, in a registry of its own."""

    def __init__(self):
        self._registry = CollectorRegistry()
        named = {"registry": self._registry}
        self.replies = Counter("qt_replies", "Replies by code; ok: with an action", ["code"], **named)
        self.refused = Counter(
            "qt_refused_connections", "Handshakes refused, by HTTP status", ["status"], **named
        )
        self.infer = Histogram("qt_infer_seconds", "One batch on the device", buckets=_SECONDS, **named)
        self.queue = Histogram(
            "qt_queue_seconds", "A request's wait for its batch", buckets=_SECONDS, **named
        )
        self.total = Histogram(
            "qt_request_seconds", "From a request's arrival to its reply", buckets=_SECONDS, **named
        )
        self.batch = Histogram(
            "qt_batch_size", "Robots that share a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **named
        )
        self.connections = Gauge("qt_connections", "Open connections", **named)
        self.sessions = Gauge("qt_sessions", "Episodes under way", **named)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """A record as one JSON object; `extra={"fields": {...}}` adds its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(time.time(), 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Unhurried(logging.Handler):
    """Writes lines to stderr in a thread of its own: a terminal or a pipe that nobody reads holds up no
    robot.

    Of the lines that wait, `at_most` are kept; more are counted.
    """

    def __init__(self, at_most: int = 10_000):
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(at_most)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()
        atexit.register(self._finish)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with self.lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                line += "\n" + json.dumps({"level": "warning", "event": "lines dropped", "count": dropped})
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)
            self._lines.task_done()

    def _finish(self) -> None:
        """Waits for the last lines, but not for who does not read them."""
        end = time.monotonic() + 1.0
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)


def logger() -> logging.Logger:
    """`qt_jax.serving`, as JSON lines on stderr."""
    log = logging.getLogger("qt_jax.serving")
    if not log.handlers:
        handler = Unhurried()
        handler.setFormatter(JsonLines())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
