"""What a robot asks of `policy.sessions.Sessions`, what it gets, and why it gets nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.guard import Limited
from qt_jax.policy.runtime import shown
from qt_jax.specs import INTERVENTION


class Refused(UserError):
    """A request that got no action.

    Args:
        code: a stable name of the reason; docs/robot.md lists them.
        message: the reason and the remedy, for people.
        in_history: whether its frame is in the episode's history all the same.

    Attributes:
        fallback: float32 [dims of one action], what the robot is to do for a control step instead, where the
            policy's safety limits say so (`on_refused`); else None.

    """

    def __init__(self, code: str, message: str, in_history: bool = False):
        super().__init__(message, topic="refused")
        self.code, self.in_history = code, in_history
        self.fallback: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """One observation of one robot. Its arrays may be written over once `Sessions` has answered."""

    session: Hashable
    images: dict[str, np.ndarray]
    """{camera: uint8 [H, W, 3]}."""
    state: np.ndarray
    """Raw, float [state_dim]."""
    instruction: str | np.ndarray
    """A sentence, or its embedding, float [E]."""
    reset: bool = False
    """Whether it is the first of a new episode."""
    seed: int | None = None
    """Of what is drawn in the episode that it begins, 0 or more; None: 0."""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the robot calls "images['CAMERA']", "state" and "instruction", for messages."""
    candidates: np.ndarray | None = None
    """Actions [K, H, dims] to rank; None: the policy is to decide one."""
    intervention: np.ndarray | None = None
    """Actions [h, dims] that a person took in place of those decided before; None: nobody took over."""
    age_ms: float | None = None
    """How old it is; needed where the policy's limits have `stale_ms`."""
    limited: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How many commands the robot's own loop altered since its last observation, by limit."""
    taken: int | None = None
    """How many actions of the last decision were executed before this observation; None: all."""

    def by_person(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns the numbers of `intervention` as float32 of this shape; None: nobody took over.

        Raises:
            Refused: `bad_observation` if they are not so many, or not finite.

        """
        actions, size = self.intervention, math.prod(shape)
        if actions is None:
            return None
        if actions.size != size or not np.isfinite(actions).all():
            found = f"{shown(actions)}, expected {size} finite numbers"
            raise Refused("bad_observation", f"Key {INTERVENTION!r} is {found}: the actions that were taken.")
        return actions.astype(np.float32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a policy decided for one robot."""

    actions: np.ndarray
    """float32 [h, dims of one action], to be executed before the next decision; inside the limits."""
    tokens: np.ndarray
    """int32 [D], the chosen bins of all dims of the decision (`Interface.decision`)."""
    chosen: np.ndarray
    """float32 [D], the scores of the chosen bins."""
    score: float
    """Of the whole decision."""
    scores: np.ndarray
    """float32 [D, N]."""
    step: int
    """Number of the decision in its episode, from 0."""
    behaviour: np.ndarray | None = None
    """float32 [D, N], how probable bins are by the behaviour head, where there is one in this process."""
    limited: tuple[Limited, ...] = ()
    """What the policy's limits altered: `actions` are then others than `tokens`."""
    policy: str = ""
    """Name of the policy, where it has one: a server's is the artefact's fingerprint."""
