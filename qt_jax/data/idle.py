"""Steps in which the robot stands still, which a policy of one frame learns to go on with for ever."""

from __future__ import annotations

import dataclasses

import numpy as np

from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec

KINDS = ("delta", "absolute")
GRIPPER = "grip"
"""How the names of dims begin that hold something; their action is where the fingers go, in every dataset."""


@dataclasses.dataclass(frozen=True)
class Idle:
    """What counts as standing still.

    kind: "delta": an action near zero moves nothing. "absolute": an action near the one before moves nothing,
    as for the gripper of either kind. share: of the range of a dim's bounds that counts as near.
    """

    kind: str
    share: float

    @classmethod
    def read(cls, text: str) -> Idle | None:
        """Reads its text, such as "delta:0.01"; returns None for an empty one.

        Raises:
            UserError: for what is none.

        """
        if not text:
            return None
        kind, _, share = text.partition(":")
        try:
            found = cls(kind, float(share))
        except ValueError:
            found = cls(kind, -1.0)
        if kind not in KINDS or not 0 < found.share < 1:
            raise UserError(
                f"config.data.idle is {text!r}; give 'delta:0.01' or 'absolute:0.01' (by what share of its "
                "bounds a dim moves at most), or '' to train on every step."
            )
        return found

    def steps(self, action: ActionSpec, actions: np.ndarray) -> np.ndarray:
        """Returns which steps stand still, bool [T]; never the last one, which may have the reward.

        Args:
            action: names and bounds of the dims.
            actions: of the steps, [T, D], as stored.

        """
        change = np.diff(actions, axis=0, prepend=actions[:1])
        grips = np.asarray([name.startswith(GRIPPER) for name in action.names])
        moved = np.where(grips, change, actions) if self.kind == "delta" else change
        near = np.abs(moved) <= self.share * np.subtract(action.high, action.low)
        idle = np.asarray(near.all(axis=1))
        if self.kind == "absolute":
            idle[0] = False  # nothing was before it
        idle[-1] = False
        return idle
