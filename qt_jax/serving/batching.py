"""Batches the requests of many robots on the one thread that uses the device; answers each request once."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from qt_jax.policy.candidates import Ranking
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.recording import Recorder

ACTIVE_S = 0.5
"""Seconds since its last request for which a session counts as active, so that others wait for it."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """An answer, and what it cost.

    Attributes:
        answer: what the policy does, or what it says of candidates.
        queue_s: seconds that the request waited for its batch.
        infer_s: seconds that the batch took.
        batch: how many robots shared the batch.

    """

    answer: Decision | Ranking
    queue_s: float
    infer_s: float
    batch: int


def _future() -> Future:
    """Returns a future that its waiter cannot cancel: it is always answered."""
    future: Future = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclasses.dataclass
class _Waiting:
    """A request that waits; its times are those of `time.perf_counter`."""

    request: Request
    arrived: float
    deadline: float
    future: Future = dataclasses.field(default_factory=_future)


class Batcher:
    """Runs requests in batches on a thread of its own, the only one that uses the device.

    A request gets no action, but `Refused`, if it is

    - `superseded`: a newer one of its session came before the device took it. It is not in the history.
    - `late`: its deadline passed, before the device took it (it is not in the history) or while it was
      computed (it is in the history).

    The `reset` of a request that is not in the history, with its seed, holds for the session's next one, so
    that no episode is continued by accident.

    Args:
        sessions: the policy's episodes.
        budget_s: how long a request may wait for those of other active sessions. A lone one never waits.
        recorder: gets every decision, if there is one; of candidates nobody says which was executed.

    """

    def __init__(self, sessions: Sessions, budget_s: float, recorder: Recorder | None = None):
        self._sessions, self._budget_s, self._recorder = sessions, budget_s, recorder
        self._reset_owed: dict[Hashable, int | None] = {}  # the seed of each
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, _Waiting] = {}
        self._calls: collections.deque[tuple[Callable[[], Any], Future]] = collections.deque()
        self._long_calls: collections.deque[tuple[Callable[[], Any], Future]] = collections.deque()
        self._last: dict[Hashable, float] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deadline_s: float = float("inf")) -> Future:
        """Queues a request.

        Args:
            request: one observation of a session.
            deadline_s: seconds from now after which its action is of no use.

        Returns:
            A future of Timed, with Refused as its exception.

        """
        now = time.perf_counter()
        mine = _Waiting(request, now, now + deadline_s)

        with self._changed:
            older = self._waiting.pop(request.session, None)
            if older is not None and older.request.reset:
                self._reset_owed[request.session] = older.request.seed
            if request.session in self._reset_owed:
                owed = self._reset_owed.pop(request.session)
                seed = owed if request.seed is None else request.seed
                mine.request = dataclasses.replace(request, reset=True, seed=seed)
            self._waiting[request.session] = mine
            self._last[request.session] = now
            self._changed.notify()

        if older is not None:
            reason = "A newer observation of this session came first; this one is not in the history."
            older.future.set_exception(Refused("superseded", reason))
        return mine.future

    def call(self, function: Callable[[], Any], long: bool = False) -> Future:
        """Runs a function on the device's thread, before the next batch.

        Args:
            function: what to run.
            long: it waits its turn; only one such function runs between two batches.

        Returns:
            A future of the function's result, or its exception.

        """
        future = _future()
        with self._changed:
            (self._long_calls if long else self._calls).append((function, future))
            self._changed.notify()
        return future

    def close_session(self, session: Hashable) -> None:
        """Forgets a session; its request that waits, if any, is refused first."""
        with self._changed:
            waiting = self._waiting.pop(session, None)
            self._last.pop(session, None)
            self._reset_owed.pop(session, None)
        if waiting is not None:
            waiting.future.set_exception(Refused("superseded", "The session was closed."))
        self.call(lambda: self._close(session))

    def _close(self, session: Hashable) -> None:
        self._sessions.close(session)
        if self._recorder is not None:
            self._recorder.forget(session)

    def forget(self, session: Hashable) -> None:
        """Forgets a session that was never opened."""
        with self._changed:
            self._last.pop(session, None)
            self._reset_owed.pop(session, None)

    def stop(self) -> None:
        """Answers the requests that wait, then ends the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._calls or self._long_calls or self._stopping
                )
                if self._waiting and not self._calls and not self._long_calls:
                    self._gather()

                calls, self._calls = [*self._calls], collections.deque()
                if self._long_calls:
                    calls.append(self._long_calls.popleft())
                taken = list(self._waiting.values())[: self._sessions.policy.capacity]
                for waiting in taken:
                    del self._waiting[waiting.request.session]
                if self._stopping and not taken and not calls:
                    return

            for function, future in calls:
                _resolve(future, function)
            if taken:
                self._serve(taken)

    def _gather(self) -> None:
        """Waits for requests of the other active sessions, within the budget of the oldest request."""
        end = next(iter(self._waiting.values())).arrived + self._budget_s
        while (now := time.perf_counter()) < end and not self._stopping:
            expected = sum(now - at < ACTIVE_S for at in self._last.values())
            if len(self._waiting) >= min(expected, self._sessions.policy.capacity):
                return
            self._changed.wait(end - now)

    def _serve(self, taken: list[_Waiting]) -> None:
        start = time.perf_counter()
        for waiting in [w for w in taken if w.deadline < start]:
            reason = "Its deadline passed before it was taken; it is not in the history."
            self._refuse(waiting, Refused("late", reason))
        ready = [w for w in taken if w.deadline >= start]
        if not ready:
            return

        try:
            asked = [_aged(waiting, start) for waiting in ready]
            results = self._sessions.act_each(asked)
        except Exception:
            logging.getLogger(__name__).exception("a batch failed")
            _lose_all(self._sessions)
            reason = "The server failed at this batch, and every episode is lost; begin a new one with reset."
            for waiting in ready:
                waiting.future.set_exception(Refused("internal", reason))
            return
        end = time.perf_counter()

        for waiting, request, result in zip(ready, asked, results):
            if isinstance(result, Refused):
                self._refuse(waiting, result)
                continue
            if self._recorder is not None and isinstance(result, Decision):
                self._recorder.record(request, result)
            if waiting.deadline < end:
                reason = "Its deadline passed while it was computed; it is in the history."
                waiting.future.set_exception(Refused("late", reason, in_history=True))
            else:
                waiting.future.set_result(Timed(result, start - waiting.arrived, end - start, len(ready)))

    def _refuse(self, waiting: _Waiting, refused: Refused) -> None:
        """Refuses a request that is not in the history; its reset is owed to the session's next one."""
        if waiting.request.reset and refused.code != "sessions_full":
            with self._changed:
                self._reset_owed[waiting.request.session] = waiting.request.seed
        waiting.future.set_exception(refused)


def _aged(waiting: _Waiting, now: float) -> Request:
    """Returns the request with the time that it waited added to its age, if it says its age."""
    request = waiting.request
    if request.age_ms is None:
        return request
    return dataclasses.replace(request, age_ms=request.age_ms + 1000 * (now - waiting.arrived))


def _lose_all(sessions: Sessions) -> None:
    """Loses every episode. It never raises, so that the device's thread goes on."""
    try:
        sessions.lose_all()
    except Exception:
        logging.getLogger(__name__).exception("the windows could not be emptied")


def _resolve(future: Future, function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # the waiter gets it
        future.set_exception(error)
