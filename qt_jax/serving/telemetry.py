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
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROBOTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.replies = self._counter("qt_replies", "Replies by code; ok: with an action", "code")
        self.decisions = self._counter("qt_decisions", "Decisions by policy (its fingerprint)", "policy")
        self.labels = self._counter(
            "qt_labels", "Episodes that the operator labelled, by policy and success", "policy", "success"
        )
        self.shadow = self._counter(
            "qt_shadow", "Decisions of the shadow policy: compared, or why they were dropped", "result"
        )
        self.limited = self._counter(
            "qt_limited", "What the policy's safety limits altered, by limit", "limit"
        )
        self.limited_commands = self._counter(
            "qt_limited_commands", "What the limits altered of commands in robots' loops, by limit", "limit"
        )
        self.refused = self._counter("qt_refused_connections", "Handshakes refused, by HTTP status", "status")
        self.reloads = self._counter(
            "qt_reloads", "What was read again while the server served", "what", "result"
        )
        self.infer = self._histogram("qt_infer_seconds", "One batch on the device", _SECONDS)
        self.queue = self._histogram("qt_queue_seconds", "A request's wait for its batch", _SECONDS)
        self.total = self._histogram("qt_request_seconds", "From a request's arrival to its reply", _SECONDS)
        self.batch = self._histogram("qt_batch_size", "Robots that share a batch", _ROBOTS)
        self.connections = Gauge("qt_connections", "Open connections", registry=self._registry)
        self.sessions = Gauge("qt_sessions", "Episodes under way", registry=self._registry)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, buckets=buckets, registry=self._registry)

    def show_expiry(self, expires: Callable[[], float]) -> None:
        """Adds the Unix time at which the TLS certificate expires."""
        name, help_ = "qt_certificate_expires_timestamp_seconds", "When the TLS certificate expires"
        Gauge(name, help_, registry=self._registry).set_function(expires)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; `extra={"fields": {...}}` adds its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        line = {
            "time": round(time.time(), 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class BackgroundHandler(logging.Handler):
    """Writes lines to stderr in a thread of its own, so that a terminal that nobody reads delays no robot.

    Args:
        at_most: how many lines may wait. More are dropped, and their number is logged.

    """

    def __init__(self, at_most: int = 10_000):
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(at_most)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()
        atexit.register(self._finish)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record's line, or counts it as dropped; never waits."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if dropped := self._take_dropped():
                line += "\n" + json.dumps({"level": "warning", "event": "lines dropped", "count": dropped})
            with contextlib.suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)
            self._lines.task_done()

    def _take_dropped(self) -> int:
        self.acquire()  # the lock that logging holds around `emit`
        try:
            dropped, self._dropped = self._dropped, 0
            return dropped
        finally:
            self.release()

    def _finish(self) -> None:
        """Waits for the last lines, at most a second if nobody reads them."""
        end = time.monotonic() + 1.0
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)


def logger() -> logging.Logger:
    """Returns the logger `qt_jax.serving`, which writes JSON lines to stderr."""
    log = logging.getLogger("qt_jax.serving")
    if not log.handlers:
        handler = BackgroundHandler()
        handler.setFormatter(JsonLines())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


def finish() -> None:
    """Waits for the last lines of the log, as Python's end does."""
    for handler in logger().handlers:
        if isinstance(handler, BackgroundHandler):
            handler._finish()
