"""Functions that bring an episode as a dataset stores it into one form.

Arrays are stacked over the episode's R records.

Dims of one name share a dim of the network, so all arms follow one convention, whatever a dataset stores:

- `x`, `y`, `z`: displacement of the gripper by one action, in metres, in the frame of the robot's base: x
  forward, y left, z up.
- `rx`, `ry`, `rz`: its rotation by one action, in radians, as changes of roll, pitch and yaw in that frame.
  For such small turns they are nearly the axis-angle vector, whatever the order of the axes.
- `gripper`: absolute, the opening after the action: 1 open, 0 closed, as in Octo and OpenVLA.
- `terminate`: 1 at the action that ends the episode.

A last record that holds the last observation alone has zeros in all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qt_jax.specs import DEMONSTRATION, INTERVENTION


@dataclasses.dataclass
class Standardised:
    """One episode of R records, before the conventions of its `DatasetSpec` are applied.

    images: {camera: R encoded images, or a `video.Clip` of R frames}
    action: [R, D]
    is_first, is_last: bool [R]
    state: [R, state_dim]
    task: name of the task for hindsight; "": the instruction
    collector: who acted; any name but "demonstration" stands for an autonomous policy
    embedding: of the instruction, if it is stored
    reward: [R]; reward, success and terminal: if the dataset has them
    dt: seconds that an action is held, if they differ between episodes
    intervention: bool [R], whether a person acted, if the dataset says it step by step
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
    intervention: np.ndarray | None = None


def _text(value: Any) -> str:
    return bytes(value).decode()


def collected(episode: dict[str, Any]) -> Standardised:
    """Reads what `collect` and `convert` write."""
    steps = episode["steps"]
    observation = dict(steps["observation"])
    return Standardised(
        instruction=_text(episode["instruction"]),
        state=observation.pop("state", None),
        images=observation,
        action=steps["action"],
        is_first=np.asarray(steps["is_first"]),
        is_last=np.asarray(steps["is_last"]),
        task=_text(episode["task"]),
        episode_id=_text(episode["episode_id"]),
        collector=_text(episode["collector"]),
        embedding=episode["instruction_embedding"],
        reward=steps["reward"],
        success=bool(episode["success"]),
        terminal=bool(steps["is_terminal"][-1]),
        dt=float(episode["dt"]),
        intervention=steps.get(INTERVENTION),
    )


def fractal_arm(episode: dict[str, Any]) -> Standardised:
    """Reads `fractal20220817_data`; actions in RT-1's order: terminate, xyz, rotation, gripper.

    TFDS documents `world_vector` and `rotation_delta` as commanded displacements of the end effector in the
    base's frame, the rotation as roll, pitch, yaw: they are kept. `gripper_closedness_action` is relative: 1
    closes, -1 opens, 0 leaves it as it is; it becomes the absolute opening. `terminate_episode` is one-hot:
    terminate, arm, base.
    """
    return _fractal(episode, ())


def fractal_arm_base(episode: dict[str, Any]) -> Standardised:
    """Reads the same with the base's rotation (radians), then its displacement (metres) from where it is."""
    return _fractal(episode, ("base_displacement_vertical_rotation", "base_displacement_vector"))


def _fractal(episode: dict[str, Any], base: tuple[str, ...]) -> Standardised:
    steps = episode["steps"]
    action, observation = steps["action"], steps["observation"]
    terminate = np.asarray(action["terminate_episode"])[:, :1]
    before = [action[key] for key in ("world_vector", "rotation_delta")]
    gripper = opening(action["gripper_closedness_action"])
    if not any(np.any(value[-1]) for value in action.values()):
        gripper[-1] = 0.0  # the last observation alone
    return Standardised(
        instruction=_text(observation["natural_language_instruction"][0]),
        embedding=observation["natural_language_embedding"][0],
        images={"front": observation["image"]},
        action=np.concatenate([terminate, *before, gripper, *(action[key] for key in base)], axis=-1),
        is_first=np.asarray(steps["is_first"]),
        is_last=np.asarray(steps["is_last"]),
        success=bool(np.max(steps["reward"]) > 0),
    )


def opening(closing: np.ndarray) -> np.ndarray:
    """Converts relative gripper commands to the opening after each, 1 open, 0 closed.

    Before the first command the gripper is in the opposite state; without any command it is open.

    Args:
        closing: [T, 1]: 1 closes, -1 opens, a value near 0 does neither.

    """
    command = np.where(np.abs(closing) > 0.1, -np.sign(closing), 0.0)[:, 0]
    given = np.flatnonzero(command)
    if not len(given):
        return np.ones_like(closing)
    latest = np.searchsorted(given, np.arange(len(command)), side="right") - 1
    held = np.where(latest < 0, -command[given[0]], command[given[latest]])
    return (held[:, None] > 0).astype(closing.dtype)


def bridge_v2(episode: dict[str, Any]) -> Standardised | None:
    """Reads `bridge_dataset`: xyz and rotation as the arm moved, the gripper as commanded.

    Its state is the gripper's xyz in metres and roll, pitch, yaw in radians in the base's frame, then the
    opening, 1 open. Its actions are commanded displacements of these at 5 Hz, which the arm lags behind: the
    displacements that it reached replace them, as in Octo and OpenVLA. The gripper's command is absolute, 1
    open. The first record's command is often empty (zeros), which would close the gripper; the next record's
    command replaces it.

    Returns None for an episode without an instruction, of which a language-conditioned policy learns nothing.
    """
    steps = episode["steps"]
    if not steps["language_instruction"][0]:
        return None

    observation, state = steps["observation"], np.asarray(steps["observation"]["state"])
    moved = np.diff(state[:, :6], axis=0, append=state[-1:, :6])
    moved[:, 3:] = (moved[:, 3:] + np.pi) % (2 * np.pi) - np.pi  # the short way if an angle passes pi
    command = np.array(steps["action"])
    if len(command) > 1 and not command[0].any():
        command[0] = command[1]

    return Standardised(
        instruction=_text(steps["language_instruction"][0]),
        embedding=steps["language_embedding"][0],
        images={"front": observation["image_0"]},
        state=state,
        action=np.concatenate([moved, command[:, 6:] > 0.5], axis=-1),
        is_first=np.asarray(steps["is_first"]),
        is_last=np.asarray(steps["is_last"]),
        episode_id=_text(episode["episode_metadata"]["file_path"]),
    )


def language_table(episode: dict[str, Any]) -> Standardised:
    """Reads `language_table`: an xArm that pushes blocks with a stick.

    Actions are displacements of the stick's target, in metres. x points from the robot over the table, y to
    its left, as in the other robots' frames; there is no gripper. The instruction is stored as UTF-8 bytes in
    integers, padded with zeros.
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
        is_first=np.asarray(steps["is_first"]),
        is_last=np.asarray(steps["is_last"]),
        episode_id=_text(episode["episode_id"]),
    )
