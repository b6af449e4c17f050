"""What the records of each dataset mean. A user's own entries go into a file named by config.data.tables.

An entry says where the dataset lies, which standardiser reads its episodes, and three conventions in which
RLDS datasets differ: what the last record is, what the reward says, and how long an action is held.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qt_jax.data import standardisers
from qt_jax.data.standardisers import Standardised
from qt_jax.errors import require_one_of
from qt_jax.specs import ActionSpec, ObservationSpec

if TYPE_CHECKING:
    from qt_jax.data.episodes import Episode

LAST_RECORDS = ("observation", "transition")
REWARDS = ("success", "stored", "demonstrations")
REWARD_PLACES = ("action", "arrival")
BOUNDS = ("spec", "data")
BINS = 256
"""Bins of each action dim, as in RT-1, unless `config.data.bins` gives another number."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    path: a version directory or the one above it; below config.data.root unless absolute or a URL.
    standardise: makes a `Standardised` of an episode as `Stored.parse` returns it, or returns None
        to leave the episode out; such episodes are counted.
    action: the dims of the action, their bounds and bins.
    observation: cameras, stored image size and state vector that `standardise` gives; state_dim 0 ignores a
        state that it gives.
    last_record: what an episode's last record holds. "observation": the last observation alone, as RLDS
        says; "transition": a real action and reward too.
    reward: "success": 1 at the last transition of an episode whose `success` is True, which terminates there;
        "stored": the stored reward, and the episode terminates where the data says so; "demonstrations":
        every episode is a success.
    reward_at: where a stored reward stands. "action": at the record of the action that earned it, as in RLDS;
        "arrival": at the record after it.
    dt: seconds that an action is held; None: the standardiser gives it for each episode.
    text_encoder: name of the encoder of the stored embeddings; None: the dataset's own documentation of
        `instruction_embedding` names it.
    expected_dt: {task: dt} that each episode must have, or None.
    achieves: {task: other tasks that a success at it achieves too}; hindsight never takes these for failures.
    bounds: "spec": those of `action`; "data": of each dim the least and the greatest value in the dataset.
    image_sizes: {camera: (height, width)} as stored; one that is not named has the observation's.
    notes: what a person should know of the dataset; printed.
    pieces: makes of an episode those that are trained on, as `play.Tasks` does; None: the episode itself.
    """

    path: str
    standardise: Callable[[dict[str, Any]], Standardised | None]
    action: ActionSpec
    observation: ObservationSpec
    last_record: str
    reward: str
    dt: float | None
    reward_at: str = "action"
    text_encoder: str | None = None
    expected_dt: Mapping[str, float] | None = None
    achieves: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    pieces: Callable[[Episode], list[Episode]] | None = None
    bounds: str = "spec"
    image_sizes: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def reader(self) -> str:
        """The name of the standardiser: a function, a functools.partial or a callable object."""
        function = getattr(self.standardise, "func", self.standardise)
        return getattr(function, "__name__", type(function).__name__)

    def stored_size(self, camera: str) -> tuple[int, int]:
        """Returns (height, width) of a camera's stored images."""
        return self.image_sizes.get(camera, self.observation.image_size)

    def __post_init__(self):
        known = {"last_record": LAST_RECORDS, "reward": REWARDS, "reward_at": REWARD_PLACES}
        known |= {"bounds": BOUNDS}
        for field, values in known.items():
            require_one_of(f"DatasetSpec of {self.path}: {field}", getattr(self, field), values)


def bounded(action: ActionSpec, low: np.ndarray, high: np.ndarray) -> ActionSpec:
    """Returns the action with other bounds [D]; a dim that never moves gets 1 on either side."""
    still = low >= high
    return dataclasses.replace(
        action, low=np.where(still, low - 1.0, low).tolist(), high=np.where(still, high + 1.0, high).tolist()
    )


_USE_LARGE = "universal-sentence-encoder-large/5"
_GRIPPER = (0.0, 1.0, 2)  # absolute: 1 open, 0 closed
_ARM = {  # name: (low, high, bins); bounds of RT-1's own action specification, but for the gripper
    "terminate": (0.0, 1.0, 2),
    **{axis: (-1.0, 1.0, 256) for axis in ("x", "y", "z")},
    **{axis: (-math.pi / 2, math.pi / 2, 256) for axis in ("rx", "ry", "rz")},
    "gripper": _GRIPPER,
}
# Relative to where the base stands: radians, then metres forward and to the left.
_BASE = {"base_rz": (-math.pi, math.pi, 256), "base_x": (-1.0, 1.0, 256), "base_y": (-1.0, 1.0, 256)}
_WIDOWX = {  # metres and radians at 5 Hz
    **{axis: (-0.05, 0.05, 256) for axis in ("x", "y", "z")},
    **{axis: (-0.25, 0.25, 256) for axis in ("rx", "ry", "rz")},
    "gripper": _GRIPPER,
}
# Metres at 10 Hz.
_PUSHER = {"x": (-0.1, 0.1, 256), "y": (-0.1, 0.1, 256)}


def _action(dims: dict[str, tuple[float, float, int]]) -> ActionSpec:
    return ActionSpec(tuple(dims), *zip(*dims.values()))


_FRACTAL = DatasetSpec(
    # RT-1's robot and kitchens, 3 Hz. Action: relative commands in the base's frame, metres and radians, but
    # for the gripper, which the standardiser makes absolute. The last record's action is all zeros (not even
    # its one-hot terminate is set), so it is o_T. Where the stored reward stands is not documented; the
    # standardiser asks only whether an episode has any. Sources: TFDS's description of fractal20220817_data;
    # RT-1 (arXiv:2212.06817) for order, bounds and rate; Octo's and OpenVLA's transforms for the gripper's
    # sign and that it is relative.
    path="fractal20220817_data/0.1.0",
    standardise=standardisers.fractal_arm,
    action=_action(_ARM),
    observation=ObservationSpec(("front",), (256, 320), 0, "none, as in RT-1"),
    last_record="observation",
    reward="success",
    dt=1 / 3,
    text_encoder=_USE_LARGE,
)

SPECS: dict[str, DatasetSpec] = {
    "fractal_arm": _FRACTAL,
    "fractal_arm_base": dataclasses.replace(
        _FRACTAL, standardise=standardisers.fractal_arm_base, action=_action(_ARM | _BASE)
    ),
    "bridge_v2": DatasetSpec(
        # WidowX arms, 5 Hz. Action: what the arm moved in its base's frame, metres and radians, and the
        # absolute gripper. Every episode carries reward 1, scripted ones too: it says nothing. A zero action
        # is appended at the end. The bounds are those of the robot's own controller, as the Open X-Embodiment
        # release has them. Sources: the TFDS builder that came with BridgeData V2 (arXiv:2308.12952); Octo's
        # transform for what the arm reached and for the gripper's sign.
        path="bridge_dataset/1.0.0",
        standardise=standardisers.bridge_v2,
        action=_action(_WIDOWX),
        observation=ObservationSpec(("front",), (256, 256), 7, "gripper xyz, roll, pitch, yaw and opening"),
        last_record="observation",
        reward="demonstrations",
        dt=1 / 5,
        text_encoder=_USE_LARGE,
    ),
    "language_table": DatasetSpec(
        # An xArm over a table, 10 Hz. Action: displacement of the commanded xy, metres; no rotation, no
        # gripper. Play cut and described in hindsight: an episode does what its instruction says. The last
        # record is marked as observation alone. Sources: TFDS's description of language_table; Interactive
        # Language (arXiv:2210.06407) and its environment for units, frame and bounds.
        path="language_table/0.0.1",
        standardise=standardisers.language_table,
        action=_action(_PUSHER),
        observation=ObservationSpec(("front",), (360, 640), 4, "effector xy and its target xy"),
        last_record="observation",
        reward="demonstrations",
        dt=1 / 10,
    ),
}
