"""An episode as it comes from a simulator, a robot or another tool's files, before it is a dataset."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class RecordedEpisode:
    """T transitions and the observation after the last: images and state have T + 1 entries.

    `curation.rlds_writer` writes it; collectors, `convert` and `serve --record` make it. What training reads
    back is `episodes.Episode`: that one has the stored embedding, and may lack the last observation or end in
    a state that is terminal without a success, as other people's datasets do.

    Attributes:
        task: the simulator's name of it; of a recording without one, the instruction itself.
        collector: who acted: "demonstration", or a kind of autonomous episode.
        index: tells apart the episodes of one task and collector.
        instruction: the sentence given to the robot.
        images: {camera: T + 1 JPEG files}.
        state: float32 [T + 1, S].
        actions: float32 [T, D].
        rewards: float32 [T].
        success: whether the last transition solved the task; it is terminal then.
        dt: seconds that each action was held.
        notes: what a person should look at; not written.
    """

    task: str
    collector: str
    index: int
    instruction: str
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool
    dt: float
    notes: tuple[str, ...] = ()

    @property
    def episode_id(self) -> str:
        """Its name in the dataset: "task/collector/index"."""
        return f"{self.task}/{self.collector}/{self.index:06d}"


@dataclasses.dataclass(frozen=True)
class LabelledEpisode:
    """An episode of a served policy with the operator's label: T actions, T + 1 observations, raw pixels.

    The server spools it, and `curation.robot_episodes` makes a `RecordedEpisode` of it when the dataset is
    written.

    Attributes:
        instruction: the sentence given to the policy.
        task: the operator's name of the task; empty where none was given.
        images: {camera: uint8 [T + 1, H, W, 3]}.
        state: float32 [T + 1, S].
        actions: float32 [T, D].
        success: the operator's label.
    """

    instruction: str
    task: str
    images: dict[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    success: bool
