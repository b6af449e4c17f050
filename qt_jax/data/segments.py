"""Episodes -> segments: where to cut, what each cut trains on, and the arrays of one cut."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from qt_jax import discretization
from qt_jax.data.episodes import Episode, monte_carlo_returns
from qt_jax.errors import UserError
from qt_jax.preprocess import Statistics, resize
from qt_jax.specs import ActionSpec, ObservationSpec


@dataclasses.dataclass(frozen=True)
class Cutting:
    """`length` records a segment, of a policy with a `window` of frames and `n_step` backups."""

    length: int
    window: int
    n_step: int

    def __post_init__(self):
        if self.length < self.window + self.n_step:
            raise UserError(
                f"config.data.segment_length is {self.length}; a window of {self.window} and n_step {self.n_step} need at least "
                f"{self.window + self.n_step}."
            )

    @property
    def stride(self) -> int:
        return self.length - (self.window - 1) - self.n_step

    def starts(self, episode_length: int) -> list[int]:
        """First record of each cut of an episode of `episode_length` transitions.

        Neighbours overlap by window - 1 + n_step records: then each transition is trainable in exactly one cut.
        """
        extra = max(0, episode_length + 1 - self.length)
        return [k * self.stride for k in range(1 + -(-extra // self.stride))]

    def trainable(self, start: int, episode_length: int) -> np.ndarray:
        """bool [length]: transitions whose window and bootstrap lie inside the cut (or whose episode starts or ends there)."""
        position = np.arange(self.length)
        step = start + position
        has_context = (position >= self.window - 1) if start else np.ones(self.length, bool)
        reaches_end = start + self.length >= episode_length + 1
        has_bootstrap = np.full(self.length, reaches_end) | (position + self.n_step < self.length)
        return has_context & has_bootstrap & (step < episode_length)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one dataset's numbers go into the network's arrays.

    own: the dataset's action; network_action, network_observation: the network's; state: statistics of the dataset's state.
    """

    own: ActionSpec
    network_action: ActionSpec
    network_observation: ObservationSpec
    state: Statistics
    cutting: Cutting
    discount: float
    dt_ref: float
    value_range: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An episode as the network's arrays, images still encoded: what is computed once, however many segments are cut from it.

    records: {Segment's field: [T or T+1, ...]}; whole: {field: the same for every record}; frames: observations that there are.
    """

    episode: Episode
    records: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]
    frames: int


def prepare(episode: Episode, embedding: np.ndarray, layout: Layout) -> Prepared:
    """Raises a UserError if a return lies outside the value range."""
    network, observation = layout.network_action, layout.network_observation
    bins = layout.own.bins_in(network)
    tokens = np.zeros((episode.length, network.dims), np.int32)
    tokens[:, list(layout.own.slots_in(network))] = discretization.tokenize(layout.own, episode.actions)
    state = np.zeros((len(episode.state), observation.state_dim), np.float32)
    state[:, : episode.state.shape[1]] = layout.state.normalize(episode.state)
    records = {"state": state, "tokens": tokens, "reward": episode.rewards, "mc_return": _returns(episode, layout)}
    whole = {"instruction": embedding, "bins": bins, "success": np.asarray(episode.success), "relabelled": np.asarray(episode.relabelled)}
    return Prepared(episode, records, whole, len(episode.state))


def cut(prepared: Prepared, number: int, layout: Layout) -> dict[str, Any]:
    """Cut `number` of an episode as one `Segment` without its batch axis, a dict of arrays; each of its frames is decoded once.

    Raises:
        UserError: if an image does not decode.
    """
    episode, length = prepared.episode, layout.cutting.length
    start = number * layout.cutting.stride
    step = np.arange(start, start + length)
    valid, ends = step < prepared.frames, step == episode.length
    cameras = layout.network_observation.cameras
    return {
        **{name: _pad(values[start : start + length], length) for name, values in prepared.records.items()},
        **prepared.whole,
        "images": {name: _frames(episode, name, start, length, layout.network_observation.image_size) for name in cameras},
        "camera_mask": {name: np.asarray(name in episode.images) for name in cameras},
        "action_mask": valid[:, None] & (prepared.whole["bins"] > 0),
        "dt": np.full(length, episode.dt, np.float32),
        "is_first": step == 0,
        "is_last": ends,
        "is_terminal": ends & episode.terminal,
        "valid": valid,
        "trainable": layout.cutting.trainable(start, episode.length),
    }


def _returns(episode: Episode, layout: Layout) -> np.ndarray:
    low, high = layout.value_range
    returns = monte_carlo_returns(episode, layout.discount, layout.dt_ref, low)
    if returns.min() < low - 1e-6 or returns.max() > high + 1e-6:
        raise UserError(
            f"Episode {episode.episode_id!r} has returns from {returns.min():.4g} to {returns.max():.4g}, outside config.value_range="
            f"({low:g}, {high:g}); set config.value_range to the least and greatest attainable return."
        )
    return returns


def _frames(episode: Episode, name: str, start: int, length: int, size: tuple[int, int]) -> np.ndarray:
    frames = np.zeros((length, *size, 3), np.uint8)
    for place, image in enumerate(episode.images[name][start : start + length] if name in episode.images else ()):
        try:
            frames[place] = resize(decode(image), size)
        except (ValueError, OSError) as error:
            raise UserError(
                f"Episode {episode.episode_id!r}: image {name!r} of step {start + place} does not decode ({error}); `validate` lists all "
                "such images; repair the dataset."
            ) from error
    return frames


def decode(image: bytes) -> np.ndarray:
    """An encoded image -> uint8 [H, W, 3]."""
    if simplejpeg.is_jpeg(image):
        return simplejpeg.decode_jpeg(image)
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def _pad(x: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)]) if len(x) < length else x
