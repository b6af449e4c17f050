"""Served episodes with the operator's label, one file each, until they are written as a dataset."""

from __future__ import annotations

import dataclasses
import time
import zipfile
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np

from qt_jax.errors import UserError
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
    """Keeps every episode under way in memory, and those that are labelled below `folder`; unlabelled ones are dropped.

    `record`, `forget` and `take` belong to the device's thread, so that they see a session's steps in their order.

    Raises:
        UserError: if the folder cannot be made.
    """

    def __init__(self, folder: str):
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}); give another --record.") from error
        self._steps: dict[Hashable, list[tuple[Request, np.ndarray]]] = {}

    def record(self, request: Request, decision: Decision) -> None:
        if decision.step == 0:
            self.forget(request.session)
        steps = self._steps.setdefault(request.session, [])
        if len(steps) < MAX_STEPS:
            steps.append((request, decision.action))

    def forget(self, session: Hashable) -> None:
        self._steps.pop(session, None)

    def take(self, session: Hashable) -> list[tuple[Request, np.ndarray]]:
        """The steps of the session's episode, which is forgotten here.

        Raises:
            Refused: `unknown_session` if it has no step; `bad_observation` if it has no sentence or is too long. It is kept then.
        """
        steps = self._steps.get(session)
        if not steps:
            raise Refused("unknown_session", "This session has no step that could be labelled.")
        if not isinstance(steps[-1][0].instruction, str):
            raise Refused("bad_observation", "An episode whose instruction is an embedding cannot be recorded; send the sentence.")
        if len(steps) >= MAX_STEPS:
            raise Refused("bad_observation", f"The episode has {MAX_STEPS} steps or more, too long to record.")
        return self._steps.pop(session)

    def write(self, steps: list[tuple[Request, np.ndarray]], last: Request, success: bool, task: str) -> str:
        """Writes an episode, whose observation after the last action is `last`; returns its name.

        Raises:
            Refused: `not_written` if the disk does not take it.
        """
        try:
            return self._write(steps, last, success, task)
        except OSError as error:
            raise Refused("not_written", f"The episode is lost: {self._folder} does not take it ({error.strerror}); make room.") from error

    def _write(self, steps: list[tuple[Request, np.ndarray]], last: Request, success: bool, task: str) -> str:
        seen = [request for request, _ in steps] + [last]
        arrays = {f"images/{name}": np.stack([r.images[name] for r in seen]) for name in last.images}
        path = self._folder / f"{time.time_ns()}.npz"
        with path.with_suffix(".partial").open("wb") as file:
            instruction = steps[-1][0].instruction
            np.savez_compressed(file, instruction=instruction, task=task, success=success, state=np.stack([r.state for r in seen]),
                                actions=np.stack([action for _, action in steps]), **arrays)  # fmt: skip
        path.with_suffix(".partial").rename(path)
        return path.stem


def read(folder: str) -> Iterator[Episode]:
    """The labelled episodes in the order in which they ended.

    Raises:
        UserError: naming a file that is damaged.
    """
    for path in sorted(Path(folder).glob("*.npz")):
        try:
            episode = _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path} cannot be read ({error}). Every episode is kept: move this file away, serve with the same --record, and end it."
            ) from error
        yield episode


def _read(path: Path) -> Episode:
    with np.load(path, allow_pickle=False) as file:
        images = {name.removeprefix("images/"): file[name] for name in file.files if name.startswith("images/")}
        return Episode(str(file["instruction"]), str(file["task"]), images, file["state"], file["actions"], bool(file["success"]))
