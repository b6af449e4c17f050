"""Any policy behind openpi's websocket protocol, as `evaluation.rollouts` takes one.

Of such a server nothing is known but that it answers an observation with "actions".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.observations import Keys
from qt_jax.policy.requests import Decision, Request
from qt_jax.serving.client import Client
from qt_jax.specs import ActionSpec


class AnyServer:
    """A policy that is asked over a connection of its own in each episode.

    So a server that remembers what it saw on a connection is not confused, and none needs to know `reset`.
    It gets images, state and instruction alone. A context manager that disconnects.

    Args:
        url: for messages.
        connect: opens a connection.
        keys: what the server calls cameras, state and instruction.
        action: of the robot; what a reply has beyond its bounds is clipped.
        execute: how many actions of a reply are executed before the next; 0: all of them.
    """

    def __init__(self, url: str, connect: Callable[[], Client], keys: Keys, action: ActionSpec, execute: int):
        self._url, self._connect, self._keys, self._action = url, connect, keys, action
        self._execute = execute
        self._clients: dict[Hashable, Client] = {}
        self._steps: dict[Hashable, int] = {}

    def act(self, requests: Sequence[Request]) -> list[Decision]:
        """Sends the requests one after the other and returns their decisions, which have no scores.

        Raises:
            UserError: for a reply without actions of the robot's dims.
        """
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Decision:
        session = request.session
        if request.reset or session not in self._clients:
            self.close(session)
            self._clients[session], self._steps[session] = self._connect(), 0
        reply = self._clients[session].infer(self._keys.observation(request))
        step, self._steps[session] = self._steps[session], self._steps[session] + 1
        none = np.zeros(0, np.float32)
        return Decision(self._actions(reply), none.astype(np.int32), none, np.nan, none, step)

    def _actions(self, reply: dict[str, Any]) -> np.ndarray:
        dims, given = self._action.dims, reply.get("actions")
        found = np.atleast_2d(given) if isinstance(given, (np.ndarray, list)) else np.zeros((0, 0))
        expected = f"'actions' [h, {dims}] of {', '.join(self._action.names)}"
        if found.ndim != 2 or found.shape[1] != dims or not len(found) or found.dtype.kind not in "fiu":
            what = f"'actions' {list(found.shape)}" if "actions" in reply else f"the keys {sorted(reply)}"
            raise UserError(f"{self._url} answers {what}, expected {expected}; serve a policy of this robot.")
        if not np.isfinite(found).all():
            raise UserError(f"{self._url} answers actions that are not finite; expected {expected}.")
        if self._execute > len(found):
            raise UserError(
                f"--execute is {self._execute}, {self._url} answers {len(found)} actions; give no more."
            )
        return np.clip(found[: self._execute or None], self._action.low, self._action.high).astype(np.float32)

    def close(self, session: Hashable) -> None:
        """Ends a session, and its connection."""
        if (client := self._clients.pop(session, None)) is not None:
            client.disconnect()

    def __enter__(self) -> AnyServer:
        return self

    def __exit__(self, *_: Any) -> None:
        for session in list(self._clients):
            self.close(session)
