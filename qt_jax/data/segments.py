"""Episodes -> segments: where to cut, what each cut trains on, and the arrays of one cut."""

from __future__ import annotations

import dataclasses
import functools
import io

import jax
import numpy as np
import simplejpeg
from PIL import Image

from qt_jax import discretization
from qt_jax.data.episodes import Episode, monte_carlo_returns
from qt_jax.errors import UserError
from qt_jax.preprocess import Statistics, resize
from qt_jax.specs import ActionSpec, ObservationSpec, Segment, segment_struct


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

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a few Cuttings live as long as the process)
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

    records: {Segment's field: [T or T+1, ...]}; whole: {field: the same for every record}.
    """

    episode: Episode
    records: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]


def prepare(episode: Episode, embedding: np.ndarray, layout: Layout) -> Prepared:
    """Raises a UserError if a return lies outside the value range."""
    network, observation = layout.network_action, layout.network_observation
    bins = layout.own.bins_in(network)
    tokens = np.zeros((episode.length, network.dims), np.int32)
    tokens[:, list(layout.own.slots_in(network))] = discretization.tokenize(layout.own, episode.actions)
    state = np.zeros((len(episode.state), observation.state_dim), np.float32)
    state[:, : episode.state.shape[1]] = layout.state.normalize(episode.state)
    step = np.arange(episode.length + 1)
    ends = step == episode.length
    records = {
        "state": state,
        "tokens": tokens,
        "action_mask": np.broadcast_to(bins > 0, (len(state), network.dims)),
        "reward": episode.rewards,
        "mc_return": _returns(episode, layout),
        "is_first": step == 0,
        "is_last": ends,
        "is_terminal": ends & episode.terminal,
        "valid": np.ones(len(state), bool),
    }
    whole = {"instruction": embedding, "bins": bins, "dt": episode.dt, "success": episode.success, "relabelled": episode.relabelled}
    return Prepared(episode, records, whole)


def empty(layout: Layout, instruction_dim: int, rows: int) -> Segment:
    """A batch of nothing but padding, for `fill`."""
    shapes = segment_struct(layout.network_action, layout.network_observation, instruction_dim, rows, layout.cutting.length)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def fill(batch: Segment, row: int, prepared: Prepared, number: int, layout: Layout) -> None:
    """Puts cut `number` of an episode into an empty row of a batch; each of its frames is decoded once, in its place.

    Raises:
        UserError: if an image does not decode.
    """
    episode, length = prepared.episode, layout.cutting.length
    start = number * layout.cutting.stride
    for name, values in prepared.records.items():
        part = values[start : start + length]
        getattr(batch, name)[row, : len(part)] = part
    for name, value in prepared.whole.items():
        getattr(batch, name)[row] = value
    batch.trainable[row] = layout.cutting.trainable(start, episode.length)
    for name, frames in episode.images.items():
        batch.camera_mask[name][row] = True
        for place, image in enumerate(frames[start : start + length]):
            try:
                decode_into(batch.images[name][row, place], image)
            except (ValueError, OSError, SyntaxError) as error:  # Pillow raises the last for some broken PNGs
                raise UserError(
                    f"Episode {episode.episode_id!r}: image {name!r} of step {start + place} does not decode ({error}); `validate` lists "
                    "all such images; repair the dataset."
                ) from error


def _returns(episode: Episode, layout: Layout) -> np.ndarray:
    low, high = layout.value_range
    returns = monte_carlo_returns(episode, layout.discount, layout.dt_ref, low)
    if returns.min() < low - 1e-6 or returns.max() > high + 1e-6:
        raise UserError(
            f"Episode {episode.episode_id!r} has returns from {returns.min():.4g} to {returns.max():.4g}, outside config.value_range="
            f"({low:g}, {high:g}); set config.value_range to the least and greatest attainable return."
        )
    return returns


def decode_into(frame: np.ndarray, image: bytes) -> None:
    """Decodes into `frame` [H, W, 3], resized where the image has another size."""
    if simplejpeg.is_jpeg(image):
        height, width, *_ = simplejpeg.decode_jpeg_header(image)
        if (height, width) == frame.shape[:2]:
            simplejpeg.decode_jpeg(image, buffer=frame)
            return
    frame[:] = resize(decode(image), frame.shape[:2])


def decode(image: bytes) -> np.ndarray:
    """An encoded image -> uint8 [H, W, 3]."""
    if simplejpeg.is_jpeg(image):
        return simplejpeg.decode_jpeg(image)
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
