"""Small named functions from an episode as a dataset stores it to ours.

Arrays are stacked over the episode's R records.

One convention for robots' arms, whatever a dataset stores, since dims of one name share a place in the
network:

- `x`, `y`, `z`: displacement of the gripper in metres an action, in the frame of the robot's base: x forward,
  y left, z up.
- `rx`, `ry`, `rz`: its rotation in radians an action, as changes of roll, pitch and yaw in that frame. For
  turns this small they are nearly the axis-angle vector, whatever the order of the axes.
- `gripper`: absolute, what it is to be after the action: 1 open, 0 closed. (As Octo and OpenVLA have it.)
- `terminate`: 1 at the action that ends the episode.

The last record of o_T alone has zeros in all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qt_jax.specs import DEMONSTRATION


@dataclasses.dataclass
class Standardised:
    """One episode of R records, the conventions of its `DatasetSpec` not yet applied.

    images: {camera: R encoded images}; state: [R, state_dim]; action: [R, D]; task: what hindsight holds for
    one task ("": the instruction); embedding: of the instruction, if stored; reward: [R], success and
    terminal: where the dataset has them; dt: seconds, where it differs between episodes.
    """

    instruction: str
    images: dict[str, Any]
    action: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    state: np.ndarray | None = None
    task: str = ""
    episode_id: str = ""
    collector: str = DEMONSTRATION
    embedding: np.ndarray | None = None
    reward: np.ndarray | None = None
    success: bool | None = None
    terminal: bool | None = None
    dt: float | None = None


def _text(value: Any) -> str:
    return bytes(value).decode()


def _flags(steps: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"is_first": np.asarray(steps["is_first"]), "is_last": np.asarray(steps["is_last"])}


def collected(episode: dict[str, Any]) -> Standardised:
    """What `collect` and `convert` write."""
    steps = episode["steps"]
    observation = dict(steps["observation"])
    return Standardised(
        instruction=_text(episode["instruction"]),
        state=observation.pop("state", None),
        images=observation,
        action=steps["action"],
        task=_text(episode["task"]),
        episode_id=_text(episode["episode_id"]),
        collector=_text(episode["collector"]),
        embedding=episode["instruction_embedding"],
        reward=steps["reward"],
        success=bool(episode["success"]),
        terminal=bool(steps["is_terminal"][-1]),
        dt=float(episode["dt"]),
        **_flags(steps),
    )


def fractal_arm(episode: dict[str, Any]) -> Standardised:
    """`fractal20220817_data` in RT-1's order: terminate, xyz, rotation, gripper.

    TFDS documents `world_vector` and `rotation_delta` as commanded displacements of the end effector in the
    base's frame, the rotation as roll, pitch, yaw: ours already. `gripper_closedness_action` is relative and
    closes upwards: 1 close, -1 open, 0 leave it, which becomes the absolute opening here. `terminate_episode`
    is one-hot: terminate, arm, base.
    """
    return _fractal(episode, ())


def fractal_arm_base(episode: dict[str, Any]) -> Standardised:
    """The same with the base: vertical rotation (radians), then displacement (metres) from where it is."""
    return _fractal(episode, ("base_displacement_vertical_rotation", "base_displacement_vector"))


def _fractal(episode: dict[str, Any], base: tuple[str, ...]) -> Standardised:
    steps = episode["steps"]
    action, observation = steps["action"], steps["observation"]
    terminate = np.asarray(action["terminate_episode"])[:, :1]
    before = [action[key] for key in ("world_vector", "rotation_delta")]
    gripper = opening(action["gripper_closedness_action"])
    if not any(np.any(value[-1]) for value in action.values()):
        gripper[-1] = 0.0  # o_T alone
    return Standardised(
        instruction=_text(observation["natural_language_instruction"][0]),
        embedding=observation["natural_language_embedding"][0],
        images={"front": observation["image"]},
        action=np.concatenate([terminate, *before, gripper, *(action[key] for key in base)], axis=-1),
        success=bool(np.max(steps["reward"]) > 0),
        **_flags(steps),
    )


def opening(closing: np.ndarray) -> np.ndarray:
    """Relative commands [T, 1], 1 close, -1 open, near 0 neither, to what the gripper is to be after each: 1
    open, 0 closed.

    Before the first command it is the opposite of what that command makes it; without any it is open.
    """
    command = np.where(np.abs(closing) > 0.1, -np.sign(closing), 0.0)[:, 0]
    given = np.flatnonzero(command)
    if not len(given):
        return np.ones_like(closing)
    latest = np.searchsorted(given, np.arange(len(command)), side="right") - 1
    held = np.where(latest < 0, -command[given[0]], command[given[latest]])
    return (held[:, None] > 0).astype(closing.dtype)


def bridge_v2(episode: dict[str, Any]) -> Standardised | None:
    """`bridge_dataset`: xyz and rotation as the arm then moved, gripper as commanded.

    Its state is the gripper's xyz in metres and roll, pitch, yaw in radians in the base's frame, then the
    opening, 1 open. Its actions are commanded displacements of these at 5 Hz, which the arm lags behind: what
    it reached is taken in their place, as Octo and OpenVLA do. The gripper is absolute already, 1 open. The
    command of the first record is often empty (zeros): its gripper, which would read as closed, is then that
    of the next.

    None for an episode without an instruction: it cannot teach a policy that is told what to do.
    """
    steps = episode["steps"]
    if not steps["language_instruction"][0]:
        return None
    observation, state = steps["observation"], np.asarray(steps["observation"]["state"])
    moved = np.diff(state[:, :6], axis=0, append=state[-1:, :6])
    moved[:, 3:] = (moved[:, 3:] + np.pi) % (2 * np.pi) - np.pi  # not once around where an angle passes pi
    command = np.array(steps["action"])
    if len(command) > 1 and not command[0].any():
        command[0] = command[1]
    return Standardised(
        instruction=_text(steps["language_instruction"][0]),
        embedding=steps["language_embedding"][0],
        images={"front": observation["image_0"]},
        state=state,
        action=np.concatenate([moved, command[:, 6:] > 0.5], axis=-1),
        episode_id=_text(episode["episode_metadata"]["file_path"]),
        **_flags(steps),
    )


def language_table(episode: dict[str, Any]) -> Standardised:
    """`language_table`: an xArm that pushes blocks with a stick; actions are displacements of the stick's
    target, in metres.

    x points from the robot over the table, y to its left, as in the other robots' frames; there is no
    gripper. The instruction is stored as UTF-8 bytes in integers, padded with zeros.
    """
    steps = episode["steps"]
    observation = steps["observation"]
    return Standardised(
        instruction=bytes(np.trim_zeros(np.asarray(observation["instruction"][0], np.uint8), "b")).decode(),
        images={"front": observation["rgb"]},
        state=np.concatenate(
            [observation["effector_translation"], observation["effector_target_translation"]], axis=-1
        ),
        action=steps["action"],
        episode_id=_text(episode["episode_id"]),
        **_flags(steps),
    )
