"""Episodes in memory, images still encoded: read by a dataset's conventions, checked, relabelled."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np

from qt_jax.data.specs import DatasetSpec
from qt_jax.data.stored import BadRecord
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Episode:
    """`T` transitions, with `T + 1` observations if the last one was kept, else `T`.

    images: {camera: T or T+1 encoded images, or a `video.Clip` of as many frames}, for `images.decode`
    state: float32 [T or T+1, state_dim], raw
    actions: float32 [T, D]
    rewards: float32 [T]
    terminal: the episode terminated; otherwise it was truncated
    dt: seconds that each action was held
    embedding: of the instruction, as stored, or None
    relabelled: the instruction is another task's (hindsight)
    intervention: bool [T], whether a person acted; None: not known
    """

    episode_id: str
    task: str
    collector: str
    instruction: str
    embedding: np.ndarray | None
    images: dict[str, Any]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool
    success: bool
    dt: float
    relabelled: bool = False
    intervention: np.ndarray | None = None

    @property
    def length(self) -> int:
        """The number T of transitions."""
        return len(self.actions)


def read(example: dict[str, Any], spec: DatasetSpec, step_penalty: float) -> Episode | None:
    """Makes an episode of a parsed record; returns None if the dataset's standardiser leaves it out.

    A truncated episode without its last observation loses its last transition: the observation there becomes
    the last one, so that no state bootstraps from itself.

    Args:
        example: what `Stored.parse` returned.
        spec: how the dataset is read.
        step_penalty: subtracted from every reward.

    Raises:
        BadRecord: for a missing key, a flag or shape against the spec, or a number that is not finite.
        UserError: for an episode of another environment than the config's. Neither error names the episode.

    """
    try:
        raw = spec.standardise(example)
    except BadRecord:
        raise
    except KeyError as error:
        raise BadRecord(f"has no key {error}, which {spec.reader} reads") from error
    except Exception as error:  # a standardiser may raise anything for a layout that it was not written for
        raise BadRecord(f"is not what {spec.reader} reads ({type(error).__name__}: {error})") from error
    if raw is None:
        return None

    if not (raw.is_last[-1] and np.sum(raw.is_last) == 1):
        raise BadRecord(
            f"has is_last at {np.flatnonzero(raw.is_last).tolist()}, expected at its last record alone"
        )
    if not raw.instruction.strip():
        raise BadRecord("has an empty instruction")
    _check_shapes(raw, spec)
    dt = raw.dt if spec.dt is None else spec.dt
    if dt is None or not dt > 0:
        raise BadRecord(f"holds its actions for {dt} s, expected a positive time")

    success, terminal, stored = _outcome(raw, spec)
    observations = len(raw.is_last)
    has_last_observation = spec.last_record == "observation"
    length = observations - 1 if has_last_observation or not terminal else observations
    if length < 1:
        raise BadRecord("holds no transition")

    rewards = np.full(length, -step_penalty, np.float32)
    if stored is None:
        rewards[-1] += float(success)
    else:
        rewards += stored[:length]
    state = raw.state if spec.observation.state_dim else np.zeros((observations, 0))

    episode = Episode(
        episode_id=raw.episode_id,
        task=raw.task or raw.instruction,
        collector=raw.collector,
        instruction=raw.instruction,
        embedding=None if raw.embedding is None else np.asarray(raw.embedding, np.float32),
        images={name: raw.images[name] for name in spec.observation.cameras},
        state=np.asarray(state, np.float32),
        actions=np.asarray(raw.action, np.float32)[:length],
        rewards=rewards,
        terminal=terminal,
        success=success,
        dt=dt,
        intervention=None if raw.intervention is None else np.asarray(raw.intervention, bool)[:length],
    )
    _check_numbers(episode, spec)
    return episode


def pieces(episode: Episode, spec: DatasetSpec) -> list[Episode]:
    """Returns the episodes that are trained on: this one, or those that `spec.pieces` makes of it."""
    return [episode] if spec.pieces is None else spec.pieces(episode)


def id_hash(identity: str) -> float:
    """Returns a number in [0, 1) from an episode's id, uniform over ids; it decides the episode's split."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2.0**64


def _outcome(raw: Any, spec: DatasetSpec) -> tuple[bool, bool, np.ndarray | None]:
    """Returns success, terminal, and the stored reward of each action, or None for a sparse reward."""
    if spec.reward == "demonstrations":
        return True, True, None
    if spec.reward == "success":
        if raw.success is None:
            raise BadRecord("has no success flag, which the spec's reward='success' needs")
        return bool(raw.success), bool(raw.success), None
    if raw.reward is None or raw.terminal is None:
        raise BadRecord("has no reward or no terminal flag, which the spec's reward='stored' needs")

    reward = np.asarray(raw.reward, np.float32)
    if spec.reward_at == "arrival":
        reward = np.append(reward[1:], np.float32(0.0))
    success = bool(raw.success) if raw.success is not None else bool(reward.max() > 0)
    return success, bool(raw.terminal), reward


def _check_shapes(raw: Any, spec: DatasetSpec) -> None:
    records, observation = len(raw.is_last), spec.observation
    expected: dict[str, tuple[int, ...]] = {"action": (records, spec.action.dims)}
    if observation.state_dim:
        expected["state"] = (records, observation.state_dim)
    if raw.intervention is not None:
        expected["intervention"] = (records,)
    for name, shape in expected.items():
        found = np.shape(getattr(raw, name))
        if found != shape:
            raise BadRecord(f"has {name} of shape {list(found)}, the spec says {list(shape)}")

    for camera in observation.cameras:
        if camera not in raw.images or len(raw.images[camera]) != records:
            raise BadRecord(
                f"has images of {sorted(raw.images)}, the spec says {list(observation.cameras)}, one a record"
            )


def _check_numbers(episode: Episode, spec: DatasetSpec) -> None:
    for field in ("rewards", "actions", "state", "embedding"):
        value = getattr(episode, field)
        bad = np.argwhere(~np.isfinite(value)) if value is not None else np.empty(0)
        if bad.size:
            raise BadRecord(f"{field} is not finite", None if field == "embedding" else int(bad[0][0]))

    if spec.expected_dt is None:
        return
    if episode.task not in spec.expected_dt:
        raise UserError(
            f"holds episodes of {episode.task}, config.env.tasks={tuple(spec.expected_dt)} does not; name it "
            "there or give other data."
        )
    expected = spec.expected_dt[episode.task]
    if not math.isclose(episode.dt, expected, rel_tol=1e-4):
        raise UserError(
            f"holds each action of {episode.task} for {episode.dt:g} s, config.env.action_repeat for "
            f"{expected:g} s; collect again or change config.env."
        )


def monte_carlo_returns(episode: Episode, discount: float, dt_ref: float, q_min: float) -> np.ndarray:
    """Computes MC_t = sum_{j>=t} gamma^{j-t} r_j over the whole episode, float32 [T] (method.md, section 1).

    A step is discounted by gamma^(dt/dt_ref), where gamma is `discount`. For a truncated episode
    gamma^{T-t} q_min is added, since only then the sum is a lower bound of the value. Where it is less than
    q_min, as it may be with a penalty and without a discount, q_min is the bound.
    """
    gamma = discount ** (episode.dt / dt_ref)
    value = 0.0 if episode.terminal else q_min
    returns = np.empty(episode.length, np.float64)
    for t in range(episode.length - 1, -1, -1):
        value = returns[t] = episode.rewards[t] + gamma * value
    return (returns if episode.terminal else np.maximum(returns, q_min)).astype(np.float32)


def relabelled(episode: Episode, instruction: str, step_penalty: float) -> Episode:
    """Returns the episode as a failure at the task of `instruction` (hindsight, method.md section 5).

    It has no success, and its end truncates it. A terminal episode without its last observation loses its
    last transition, as in `read`.
    """
    observations = len(episode.state)
    length = min(episode.length, observations - 1)
    if length < 1:
        return episode
    return dataclasses.replace(
        episode,
        instruction=instruction,
        embedding=None,
        actions=episode.actions[:length],
        intervention=None if episode.intervention is None else episode.intervention[:length],
        rewards=np.full(length, -step_penalty, np.float32),
        terminal=False,
        success=False,
        relabelled=True,
    )
