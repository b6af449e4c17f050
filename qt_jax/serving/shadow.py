"""A policy that sees what the served one sees; what it would do is compared and recorded, and never sent."""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

import numpy as np

from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.serving.batching import Batcher
from qt_jax.serving.policies import Policies, Served

COMPARED = "compared"

Compared = Callable[[Request, str, np.ndarray | None], None]
"""Is told of a request `COMPARED` and what the shadow would do, [h, dims]; or why nothing, and None."""


class Shadow:
    """Asks a second policy, on a thread of its own and once the robots have their replies.

    A decision that is not there after a control step is dropped and counted, and so is an observation that a
    newer one overtakes before the shadow takes it; that frame is missing in its window.

    Args:
        served: the policy.
        compared: is called on the shadow's thread.

    """

    def __init__(self, served: Served, compared: Compared):
        self._served, self._compared, spec = served, compared, served.spec
        self._batcher = Batcher(Policies([served]), budget_s=0.0)
        self._deadline_s = spec.dt * spec.interface.execute
        self._done: dict[Hashable, np.ndarray] = {}
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._sum = np.zeros(spec.interface.action.dims)

    def see(self, request: Request, decision: Decision) -> None:
        """Queues an observation, of which the served policy made a decision; comes back at once."""
        session, done = request.session, request.intervention
        if done is None and decision.step > 0:
            done = self._done.get(session)  # its limits go on from what the robot did
            if done is not None and request.taken is not None:
                done = np.broadcast_to(done[request.taken - 1], done.shape)
        asked = dataclasses.replace(request, reset=decision.step == 0, intervention=done)
        self._done[session] = decision.actions
        future = self._batcher.submit(asked, self._deadline_s)
        future.add_done_callback(functools.partial(self._compare, request, decision))

    def _compare(self, request: Request, decision: Decision, future: Future) -> None:
        error = future.exception()
        code = COMPARED if error is None else error.code if isinstance(error, Refused) else "internal"
        actions = None if error is not None else future.result().answer.actions
        with self._lock:
            self._counts[code] += 1
            if actions is not None:
                self._sum += np.abs(actions - decision.actions).mean(axis=0)
        self._compared(request, code, actions)

    def close(self, session: Hashable) -> None:
        """Ends a session."""
        self._done.pop(session, None)
        self._batcher.close_session(session)

    def stop(self) -> None:
        """Ends the thread."""
        self._batcher.stop()

    def report(self) -> dict[str, Any]:
        """Returns what the page shows.

        It is "artefact", "fingerprint", "compared" (how many decisions), "dropped" (how many, by reason), and
        "difference": {dim: mean |difference| of all that were compared, in the action's units}, {} of none.
        """
        with self._lock:
            counts, total = dict(self._counts), self._sum.copy()
        compared = counts.pop(COMPARED, 0)
        names = self._served.spec.interface.action.names
        return {
            "artefact": self._served.about["artefact"],
            "fingerprint": self._served.sessions.name,
            "compared": compared,
            "dropped": counts,
            "difference": dict(zip(names, (total / compared).tolist())) if compared else {},
        }
