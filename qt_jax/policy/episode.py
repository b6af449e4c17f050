"""One episode under way: the frames of its window, and the safety limits of its robot."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from qt_jax import discretization
from qt_jax.policy.guard import Guard, Limited
from qt_jax.specs import Interface, PolicySpec


@dataclasses.dataclass
class Frame:
    """What was seen at a step, and the bins [D] of what was done then: -1 until it is decided."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    tokens: np.ndarray
    step: int


@dataclasses.dataclass
class Episode:
    """An episode that has the policy's episode `index`."""

    index: int
    frames: collections.deque[Frame]
    embedding: np.ndarray | None = None
    step: int = 0
    seed: int = 0
    guard: Guard | None = None
    """The limits of its robot, if the policy has some."""
    done: np.ndarray | None = None
    """[h, dims], what was said to be executed after the last decision, where there are limits."""

    @classmethod
    def open(cls, index: int, spec: PolicySpec) -> Episode:
        """Opens an episode of a robot, with nothing seen or done."""
        guard = None if spec.limits is None else Guard(spec.limits, spec.interface.action.names, spec.dt)
        return cls(index, collections.deque(maxlen=spec.window), guard=guard)

    def begin(self) -> None:
        """Begins a new episode in the place of this one."""
        self.frames.clear()
        self.step, self.done = 0, None
        if self.guard is not None:
            self.guard.begin()

    def guarded(
        self, actions: np.ndarray, stale: bool, taken: int | None, by_person: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[Limited, ...]]:
        """Returns what may be executed of actions [h, dims] at the last frame, and what was altered.

        Args:
            actions: that were decided.
            stale: whether the observation is too old for them.
            taken: how many of the last decision's actions were executed, at least 1; None: all.
            by_person: float32 [h, dims], what a person did in their place; None: nobody did.

        """
        if self.guard is None:
            return actions, ()
        self.guard.see(self.frames[-1].state)
        if taken is not None and self.done is not None:
            self.guard.last = self.done[taken - 1]
        if by_person is not None:
            self.guard.last = by_person[-1]
        done, altered = [], []
        for number, action in enumerate(actions):
            executed, found = self.guard.fall_back("stale") if stale else self.guard.limit(action)
            done.append(executed)
            altered += [dataclasses.replace(one, action=number) for one in found]
        self.done = np.stack(done)
        return self.done, tuple(altered)


def executed_bins(
    own: Interface, tokens: np.ndarray, decided: np.ndarray, executed: np.ndarray
) -> np.ndarray:
    """Returns the bins [D] of a decision, of which other actions [h, dims] were executed than decided."""
    bins, other = tokens.copy(), (executed != decided).ravel()
    bins[: other.size][other] = discretization.tokenize(own.executed, executed.ravel())[other]
    return bins


def own_copy(array: np.ndarray) -> np.ndarray:
    """Returns an array that the caller's next frame, in the same buffer, does not change.

    It is a copy, unless the memory is that of bytes, as they come by the network.
    """
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return array if isinstance(base, bytes) else array.copy()
