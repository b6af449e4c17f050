"""An episode as it comes from a simulator, a robot or another tool's files, before it is a dataset."""

from __future__ import annotations

import dataclasses

import numpy as np

from qt_jax.specs import DEMONSTRATION, INTERVENTION, POLICY

AGE = "age_ms"
"""Of each step of a served policy's episodes in a dataset: how old its observation was."""


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
        intervention: bool [T], whether a person acted at each step; None: not known.
        notes: what a person should look at; not written.
        limited: of a policy with safety limits, for each transition the names of those that altered its
            action, joined by commas; None: of others.
        policy: of a served policy, its fingerprint; None: of others.
        shadow: float32 [T, D], what a shadow policy would have done, NaN where it was late; None: there was
            none.
        age_ms: float32 [T + 1], how old each observation was when it was decided on; NaN: not told; None: of
            others than a served policy's.
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
    intervention: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    limited: tuple[str, ...] | None = None
    policy: str | None = None
    shadow: np.ndarray | None = None
    age_ms: np.ndarray | None = None

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
        intervention: bool [T], whether a person acted at each step.
        success: the operator's label.
        limited: [T] texts, the names of the safety limits that altered each action, joined by commas.
        policy: its fingerprint.
        shadow: float32 [T, D], what a shadow policy would have done; NaN where it was late or missing.
        age_ms: float32 [T + 1], how old each observation was when it was decided on; NaN: not told.
    """

    instruction: str
    task: str
    images: dict[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    intervention: np.ndarray
    success: bool
    limited: np.ndarray
    policy: str
    shadow: np.ndarray
    age_ms: np.ndarray


def collector_of(intervention: np.ndarray) -> str:
    """Returns the collector of an episode by who acted at each step, bool [T]: a person or the policy."""
    return DEMONSTRATION if intervention.all() else INTERVENTION if intervention.any() else POLICY


def rewards_of(transitions: int, success: bool | np.ndarray, rewards: np.ndarray | None) -> np.ndarray:
    """Returns the rewards of the transitions that are kept: to the first success, or all.

    What an action earned that has no observation after it moves to the transition before.

    Args:
        transitions: how many there are, from an observation to the next.
        success: of the episode; or [T]: for each action whether it solved the task.
        rewards: [T], of each action; None: 1 at the transition that succeeds, else 0.

    Returns:
        float32 [kept].

    """
    marked = np.ndim(success) > 0 and bool(np.any(success))
    first = int(np.argmax(success)) if marked else transitions
    kept = np.zeros(min(transitions, first + 1), np.float32)
    if rewards is None:
        kept[-1] = np.any(success)
    else:
        kept[:] = rewards[: len(kept)]
        if first >= transitions:
            kept[-1] += rewards[transitions:].sum()
    return kept


def is_mark(values: np.ndarray) -> bool:
    """Returns whether a column marks success, by 0 or one positive value; a shaped reward does not."""
    return not len(values) or bool(values.min() >= 0 and len(set(values[values != 0].tolist())) <= 1)
