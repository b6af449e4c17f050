"""Keeps served episodes in memory until the operator labels them, and then writes them to the spool."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

from qt_jax import faults
from qt_jax.data.recorded import LabelledEpisode
from qt_jax.policy.observations import plain
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.serving.spool import Spool
from qt_jax.specs import INTERVENTION

MAX_STEPS = 5_000
KEPT_BYTES = 2**30
"""Bytes of labelled episodes that are kept in memory while the disk does not take them; more are lost."""


class Step(NamedTuple):
    """What was seen, and what was done then."""

    request: Request
    actions: np.ndarray
    """float32 [D], all that were executed after the decision."""
    policy: str
    """Name of the policy that decided."""
    shadow: np.ndarray
    """float32 [D], what a shadow policy would have done; NaN: there is none, or it was late."""
    limited: str = ""
    """Names of the limits that altered them, here or in the robot's loop, joined by commas."""
    intervention: bool = False
    """Whether they were a person's."""


Steps = list[Step]


@dataclasses.dataclass(frozen=True)
class Label:
    """What the operator says of an episode.

    Attributes:
        success: whether it succeeded.
        task: the task's name; empty: none was given.

    """

    success: bool
    task: str = ""

    @classmethod
    def read(cls, value: Any) -> Label:
        """Reads the value of a request's key 'label'.

        Raises:
            Refused: `bad_observation`, naming the key that is missing, unknown or of a wrong type.

        """
        if not isinstance(value, dict):
            raise _no_label("Key 'label' is", value)
        for key in value:
            if key not in ("success", "task"):
                raise _no_label("Key 'label' has an unknown key", key)
        success, task = plain(value.get("success")), value.get("task", "")
        if not isinstance(success, (bool, int, float)) or success not in (0, 1):
            raise _no_label("Key 'success' of 'label' is", success)
        if not isinstance(task, str) or len(task) > 100:
            raise _no_label("Key 'task' of 'label' is", task)
        return cls(bool(success), task.strip())


def _no_label(problem: str, value: Any) -> Refused:
    expected = "expected {'success': true or false, 'task': its name of at most 100 letters, if you like}"
    return Refused("bad_observation", f"{problem} {str(value)[:100]!r}, {expected}.")


class Recorder:
    """Keeps every episode under way in memory, and writes those that are labelled to the spool.

    A step of an episode is a decision: no frame is seen between the actions of one.

    Call `record`, `forget` and `take` on the device's thread, which has a session's steps in their order.

    Attributes:
        spool: where labelled episodes go.
        unlabelled: number of episodes that ended without a label; they are dropped.
        left_out: number of steps before an episode's last instruction; they are dropped.
        lost: number of labelled episodes that neither the disk nor the memory took.

    """

    def __init__(self, spool: Spool):
        self.spool = spool
        self._steps: dict[Hashable, Steps] = {}
        self._writing = threading.Lock()
        self._kept: list[LabelledEpisode] = []
        self.unlabelled = self.left_out = self.lost = 0

    def record(self, request: Request, decision: Decision) -> None:
        """Adds a step to its session's episode.

        A new instruction drops the steps before it, since a label speaks of the last instruction alone.
        """
        if decision.step == 0:
            self.forget(request.session)
        steps = self._steps.setdefault(request.session, [])
        if steps and request.limited:  # between the last observation and this one
            steps[-1] = steps[-1]._replace(limited=_joined([*steps[-1].limited.split(","), *request.limited]))
        if steps and not _same(steps[-1].request.instruction, request.instruction):
            self.left_out += len(steps)
            steps.clear()
        if len(steps) < MAX_STEPS:
            limited = _joined(one.limit for one in decision.limited)
            actions = decision.actions.ravel()
            none = np.full_like(actions, np.nan)
            steps.append(Step(request, actions, decision.policy, none, limited))

    def intervene(self, request: Request) -> None:
        """Replaces the actions of its session's last step by those that a person took, where there are any.

        Raises:
            Refused: `unknown_session` if there is no step; `bad_observation` for actions of another shape
                than those decided, or that are not finite.

        """
        if request.intervention is None:
            return
        steps = self._steps.get(request.session)
        if not steps:
            reason = f"Key {INTERVENTION!r} is about the step before, and this session has none."
            raise Refused("unknown_session", reason)
        if (taken := request.by_person(steps[-1].actions.shape)) is not None:
            steps[-1] = steps[-1]._replace(actions=taken, limited="", intervention=True)

    def shadow(self, request: Request, actions: np.ndarray) -> None:
        """Adds to the step of a request, while it is here, what a shadow policy would have done."""
        steps = self._steps.get(request.session, [])
        for number in reversed(range(len(steps))):
            if steps[number].request is request:
                steps[number] = steps[number]._replace(shadow=actions.ravel())
                return

    def forget(self, session: Hashable) -> None:
        """Drops a session's episode, which was not labelled."""
        self.unlabelled += bool(self._steps.pop(session, None))

    def take(self, last: Request) -> Steps:
        """Removes and returns the steps of a session's episode, the last one as `intervene` leaves it.

        Args:
            last: the observation after the episode's last action.

        Raises:
            Refused: `unknown_session` if there is no step; `bad_observation` if the instruction is no
                sentence or differs from that of `last`, or the episode is too long; and as `intervene`. The
                episode stays.

        """
        steps = self._steps.get(last.session)
        if not steps:
            raise Refused("unknown_session", "This session has no step that could be labelled.")
        sentence, other = steps[-1].request.instruction, last.instruction
        if not isinstance(sentence, str):
            reason = "An episode whose instruction is an embedding cannot be recorded; send the sentence."
            raise Refused("bad_observation", reason)
        if isinstance(other, str) and other != sentence:
            both = f"{other[:50]!r}, and the episode's instruction is {sentence[:50]!r}"
            reason = f"The label comes with the prompt {both}; send the label with the episode's own."
            raise Refused("bad_observation", reason)
        if len(steps) >= MAX_STEPS:
            reason = f"The episode has {MAX_STEPS} steps or more, too long to record."
            raise Refused("bad_observation", reason)
        self.intervene(last)
        return self._steps.pop(last.session)

    def write(self, steps: Steps, last: Request, label: Label) -> str:
        """Writes an episode, after those that the disk did not take before; returns its name.

        Args:
            steps: of the episode, as `take` returned them.
            last: the observation after its last action.
            label: what the operator said of it.

        Raises:
            Refused: `not_written` if the disk does not take it.

        """
        with self._writing:
            try:
                self._kept.append(_episode(steps, last, label))
            except MemoryError as error:
                self.lost += 1
                reason = "The episode is lost: there is no memory to write it."
                raise Refused("not_written", reason) from error

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
        """Tries once more to write what the disk did not take; what it still does not take is lost."""
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


def _joined(limits: Iterable[str]) -> str:
    return ",".join(sorted({*limits} - {""}))


def _same(one: str | np.ndarray, other: str | np.ndarray) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return np.array_equal(one, other)


def _episode(steps: Steps, last: Request, label: Label) -> LabelledEpisode:
    seen = [step.request for step in steps] + [last]
    return LabelledEpisode(
        instruction=str(steps[-1].request.instruction),
        task=label.task,
        images={name: np.stack([request.images[name] for request in seen]) for name in last.images},
        state=np.stack([request.state for request in seen]),
        actions=np.stack([step.actions for step in steps]),
        intervention=np.asarray([step.intervention for step in steps]),
        success=label.success,
        limited=np.asarray([step.limited for step in steps]),
        policy=steps[-1].policy,
        shadow=np.stack([step.shadow for step in steps]),
        age_ms=np.asarray([np.nan if one.age_ms is None else one.age_ms for one in seen], np.float32),
    )


def _size(episode: LabelledEpisode) -> int:
    """Returns the episode's size in bytes."""
    arrays = (*episode.images.values(), episode.state, episode.actions)
    return sum(array.nbytes for array in arrays)
