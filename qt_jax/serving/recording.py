"""Served episodes in memory, until the operator's label takes them to the spool."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Hashable
from typing import Any

import numpy as np

from qt_jax import faults
from qt_jax.data.recorded import LabelledEpisode
from qt_jax.policy.observations import plain
from qt_jax.policy.sessions import Decision, Refused, Request
from qt_jax.serving.spool import Spool

MAX_STEPS = 5_000
KEPT_BYTES = 2**30
"""Of labelled episodes that the disk does not take: they are kept in memory up to here, and lost beyond."""

Steps = list[tuple[Request, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Label:
    """What the operator says of an episode; task: its name, empty: none was given."""

    success: bool
    task: str = ""

    @classmethod
    def read(cls, told: Any) -> Label:
        """Raises Refused (`bad_observation`) naming the key that is missing, unknown or of a wrong type."""
        expected = "expected {'success': true or false, 'task': its name of at most 100 letters, if you like}"
        if not isinstance(told, dict):
            raise Refused("bad_observation", f"Key 'label' is {str(told)[:100]!r}, {expected}.")
        for key in told:
            if key not in ("success", "task"):
                raise Refused(
                    "bad_observation", f"Key 'label' has an unknown key {str(key)[:100]!r}, {expected}."
                )
        success, task = plain(told.get("success")), told.get("task", "")
        if not isinstance(success, (bool, int, float)) or success not in (0, 1):
            raise Refused(
                "bad_observation", f"Key 'success' of 'label' is {str(success)[:100]!r}, {expected}."
            )
        if not isinstance(task, str) or len(task) > 100:
            raise Refused("bad_observation", f"Key 'task' of 'label' is {str(task)[:100]!r}, {expected}.")
        return cls(bool(success), task.strip())


class Recorder:
    """Keeps every episode under way in memory, and writes those that are labelled to the spool.

    `record`, `forget` and `take` belong to the device's thread: they see a session's steps in their order.

    Attributes:
        spool: where labelled episodes go.
        unlabelled: episodes that ended without a label; they are dropped.
        left_out: steps before an episode's last instruction.
        lost: labelled episodes that neither the disk nor the memory took.

    """

    def __init__(self, spool: Spool):
        self.spool = spool
        self._steps: dict[Hashable, Steps] = {}
        self._writing = threading.Lock()
        self._kept: list[LabelledEpisode] = []
        self.unlabelled = self.left_out = self.lost = 0

    def record(self, request: Request, decision: Decision) -> None:
        """Adds a step. Another instruction cuts the episode there: a label speaks of the last one alone."""
        if decision.step == 0:
            self.forget(request.session)
        steps = self._steps.setdefault(request.session, [])
        if steps and not _same(steps[-1][0].instruction, request.instruction):
            self.left_out += len(steps)
            steps.clear()
        if len(steps) < MAX_STEPS:
            steps.append((request, decision.action))

    def forget(self, session: Hashable) -> None:
        self.unlabelled += bool(self._steps.pop(session, None))

    def take(self, last: Request) -> Steps:
        """The steps of an episode, which is forgotten here; last: the observation after its last action.

        Raises:
            Refused: `unknown_session` if it has no step; `bad_observation` if it has no sentence, another one
                than `last`, or is too long. It is kept then.

        """
        steps = self._steps.get(last.session)
        if not steps:
            raise Refused("unknown_session", "This session has no step that could be labelled.")
        told = steps[-1][0].instruction
        if not isinstance(told, str):
            raise Refused(
                "bad_observation",
                "An episode whose instruction is an embedding cannot be recorded; send the sentence.",
            )
        if isinstance(last.instruction, str) and last.instruction != told:
            both = f"{last.instruction[:50]!r}, and the episode's instruction is {told[:50]!r}"
            raise Refused(
                "bad_observation",
                f"The label comes with the prompt {both}; send the label with the episode's own.",
            )
        if len(steps) >= MAX_STEPS:
            raise Refused(
                "bad_observation", f"The episode has {MAX_STEPS} steps or more, too long to record."
            )
        return self._steps.pop(last.session)

    def write(self, steps: Steps, last: Request, label: Label) -> str:
        """Writes an episode, whose observation after the last action is `last`; returns its name.

        What the disk did not take before goes first.

        Raises:
            Refused: `not_written` if the disk does not take it.

        """
        with self._writing:
            try:
                self._kept.append(_episode(steps, last, label))
            except MemoryError as error:
                self.lost += 1
                raise Refused(
                    "not_written", "The episode is lost: there is no memory to write it."
                ) from error
            try:
                return self._write_kept()
            except (OSError, MemoryError) as error:
                why = getattr(error, "strerror", None) or error
                fault = faults.find(error)
                remedy = fault.remedy if fault else "look at the storage"
                reason = f"{self.spool.folder} does not take the episode ({why}); {remedy}."
                if sum(map(_size, self._kept)) > KEPT_BYTES:
                    self._kept.pop()
                    self.lost += 1
                    raise Refused("not_written", f"The episode is lost: {reason}") from error
                kept = "It is kept in memory, and tried again with the next label and when the server ends."
                raise Refused("not_written", f"{reason} {kept}") from error

    def finish(self) -> None:
        """Tries once more what the disk did not take, and counts as lost what it still does not."""
        with self._writing:
            try:
                self._write_kept()
            except (OSError, MemoryError):
                self.lost += len(self._kept)
                self._kept.clear()

    def _write_kept(self) -> str:
        name = ""
        while self._kept:
            name = self.spool.write(self._kept[0])
            del self._kept[0]
        return name


def _same(one: str | np.ndarray, other: str | np.ndarray) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return np.array_equal(one, other)


def _episode(steps: Steps, last: Request, label: Label) -> LabelledEpisode:
    seen = [request for request, _ in steps] + [last]
    return LabelledEpisode(
        instruction=str(steps[-1][0].instruction),
        task=label.task,
        images={name: np.stack([request.images[name] for request in seen]) for name in last.images},
        state=np.stack([request.state for request in seen]),
        actions=np.stack([action for _, action in steps]),
        success=label.success,
    )


def _size(episode: LabelledEpisode) -> int:
    """In bytes."""
    return (
        sum(frames.nbytes for frames in episode.images.values())
        + episode.state.nbytes
        + episode.actions.nbytes
    )
