"""Served episodes with the operator's label, one file each, until they are written as a dataset."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np

from qt_jax.serving.sessions import Decision, Refused, Request

MAX_STEPS = 5_000


@dataclasses.dataclass(frozen=True)
class Episode:
    """T actions, T + 1 observations: images {camera: uint8 [T+1, H, W, 3]}, state float32 [T+1, S], actions float32 [T, D].

    task: the operator's name of it; empty: none was given.
    """

    instruction: str
    task: str
    images: dict[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    success: bool


class Recorder:
    """Keeps every episode under way in memory, and those that are labelled below `folder`. Unlabelled ones are counted and dropped."""

    def __init__(self, folder: str):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._steps: dict[Hashable, list[tuple[Request, np.ndarray]]] = {}
        self.dropped = 0

    def record(self, request: Request, decision: Decision) -> None:
        with self._lock:
            if decision.step == 0:
                self._drop(request.session)
            steps = self._steps.setdefault(request.session, [])
            if len(steps) < MAX_STEPS:
                steps.append((request, decision.action))

    def drop(self, session: Hashable) -> None:
        """Forgets an episode without a label."""
        with self._lock:
            self._drop(session)

    def finish(self, last: Request, success: bool, task: str) -> str:
        """Labels the session's episode, whose observation after the last action is `last`; returns its name.

        Raises:
            Refused: `unknown_session` if nothing was served in it; `bad_observation` if it has no sentence or is too long.
        """
        with self._lock:
            steps = self._steps.pop(last.session, None)
        if not steps:
            raise Refused("unknown_session", "This session has no step that could be labelled.")
        instruction = steps[-1][0].instruction
        if not isinstance(instruction, str):
            raise Refused("bad_observation", "An episode whose instruction is an embedding cannot be recorded; send the sentence.")
        if len(steps) >= MAX_STEPS:
            raise Refused("bad_observation", f"The episode has {MAX_STEPS} steps or more, too long to record.")
        seen = [request for request, _ in steps] + [last]
        arrays = {f"images/{name}": np.stack([r.images[name] for r in seen]) for name in last.images}
        with self._lock:
            path = self._folder / f"{len(list(self._folder.iterdir())):06d}.npz"
            np.savez_compressed(path, instruction=instruction, task=task, success=success, state=np.stack([r.state for r in seen]),
                                actions=np.stack([action for _, action in steps]), **arrays)  # fmt: skip
        return path.stem

    def _drop(self, session: Hashable) -> None:
        self.dropped += bool(self._steps.pop(session, None))


def read(folder: str) -> Iterator[Episode]:
    """The labelled episodes in the order in which they ended."""
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            images = {name.removeprefix("images/"): file[name] for name in file.files if name.startswith("images/")}
            yield Episode(str(file["instruction"]), str(file["task"]), images, file["state"], file["actions"], bool(file["success"]))
