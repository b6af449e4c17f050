"""Small named functions from an episode as a dataset stores it to ours. Arrays are stacked over the episode's R records."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qt_jax.specs import DEMONSTRATION


@dataclasses.dataclass
class Standardised:
    """One episode of R records, the conventions of its `DatasetSpec` not yet applied.

    images: {camera: R encoded images}; state: [R, state_dim]; action: [R, D]; task: what hindsight holds for one task ("": the
    instruction); embedding: of the instruction, if stored; reward: [R], success and terminal: where the dataset has them; dt: seconds,
    where it differs between episodes.
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
    """`fractal20220817_data` in RT-1's order: terminate, xyz, rotation, gripper."""
    return _fractal(episode, ())


def fractal_arm_base(episode: dict[str, Any]) -> Standardised:
    """The same with the base: vertical rotation, then displacement."""
    return _fractal(episode, ("base_displacement_vertical_rotation", "base_displacement_vector"))


def _fractal(episode: dict[str, Any], base: tuple[str, ...]) -> Standardised:
    steps = episode["steps"]
    action, observation = steps["action"], steps["observation"]
    terminate = np.asarray(action["terminate_episode"])[:, :1]  # one-hot: terminate, arm, base
    rest = [action[key] for key in ("world_vector", "rotation_delta", "gripper_closedness_action", *base)]
    return Standardised(
        instruction=_text(observation["natural_language_instruction"][0]),
        embedding=observation["natural_language_embedding"][0],
        images={"front": observation["image"]},
        action=np.concatenate([terminate, *rest], axis=-1),
        success=bool(np.max(steps["reward"]) > 0),
        **_flags(steps),
    )


def bridge_v2(episode: dict[str, Any]) -> Standardised | None:
    """`bridge_dataset`: xyz and rotation as the arm then moved (the stored command of the first record is empty), gripper as commanded.

    None for an episode without an instruction: it cannot teach a policy that is told what to do.
    """
    steps = episode["steps"]
    if not steps["language_instruction"][0]:
        return None
    observation, state = steps["observation"], np.asarray(steps["observation"]["state"])
    moved = np.diff(state[:, :6], axis=0, append=state[-1:, :6])
    return Standardised(
        instruction=_text(steps["language_instruction"][0]),
        embedding=steps["language_embedding"][0],
        images={"front": observation["image_0"]},
        state=state,
        action=np.concatenate([moved, np.asarray(steps["action"])[:, 6:] > 0.5], axis=-1),
        episode_id=_text(episode["episode_metadata"]["file_path"]),
        **_flags(steps),
    )


def language_table(episode: dict[str, Any]) -> Standardised:
    """`language_table`: the instruction is stored as UTF-8 bytes in integers, padded with zeros."""
    steps = episode["steps"]
    observation = steps["observation"]
    return Standardised(
        instruction=bytes(np.trim_zeros(np.asarray(observation["instruction"][0], np.uint8), "b")).decode(),
        images={"front": observation["rgb"]},
        state=np.concatenate([observation["effector_translation"], observation["effector_target_translation"]], axis=-1),
        action=steps["action"],
        episode_id=_text(episode["episode_id"]),
        **_flags(steps),
    )
