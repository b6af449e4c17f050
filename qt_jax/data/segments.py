"""Segments of episodes: where episodes are cut, which steps of a cut are trained, and a batch's arrays."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from qt_jax import discretization
from qt_jax.data import features as stored
from qt_jax.data import images as encoded
from qt_jax.data.buffers import Buffers
from qt_jax.data.episodes import Episode, monte_carlo_returns
from qt_jax.data.features import StoredFrames
from qt_jax.data.idle import Idle
from qt_jax.data.video import BadImage, Traffic
from qt_jax.errors import UserError, require_one_of
from qt_jax.segment import FEATURES, Segment, segment_struct
from qt_jax.specs import ActionSpec, Interface
from qt_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How episodes are cut into segments.

    length: records of a segment; window: frames that the policy sees; n_step: steps of a backup; apart: steps
    from one frame of the window to the next.
    """

    length: int
    window: int
    n_step: int
    apart: int = 1

    def __post_init__(self):
        if self.stride < 1:
            apart = f", {self.apart} steps apart," if self.apart > 1 else ""
            raise UserError(
                f"config.data.segment_length is {self.length}; a window of {self.window} frames{apart} and "
                f"backups over {self.n_step} steps need at least {self.context + self.n_step + 1}."
            )

    @functools.cached_property
    def context(self) -> int:
        """Records before a step that its window reaches back."""
        return (self.window - 1) * self.apart

    @functools.cached_property
    def stride(self) -> int:
        """Records from the start of one cut to that of the next."""
        return self.length - self.context - self.n_step

    def starts(self, episode_length: int) -> list[int]:
        """Returns the first record of each cut of an episode of `episode_length` transitions.

        Neighbours overlap by context + n_step records, so that each transition is trainable in exactly one
        cut.
        """
        extra = max(0, episode_length + 1 - self.length)
        return [k * self.stride for k in range(1 + -(-extra // self.stride))]

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a few Cuttings live as long as the process)
    def trainable(self, start: int, episode_length: int) -> np.ndarray:
        """Returns bool [length]: which transitions of the cut at record `start` are trained.

        Their window lies inside the cut, or the episode starts there; and so does their bootstrap, or the
        episode ends there.
        """
        position = np.arange(self.length)
        step = start + position
        has_context = (position >= self.context) if start else np.ones(self.length, bool)
        reaches_end = start + self.length >= episode_length + 1
        has_bootstrap = np.full(self.length, reaches_end) | (position + self.n_step < self.length)
        return has_context & has_bootstrap & (step < episode_length)


TIME_LIMITS = ("bootstrap", "terminal")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the numbers of one dataset go into the network's arrays.

    own: the dataset's action; interface: the network's; state: statistics of the dataset's state;
    time_limits: whether the end of a truncated episode bootstraps or is terminal; idle: steps that are not
    trained.
    """

    own: ActionSpec
    interface: Interface
    state: Statistics
    cutting: Cutting
    discount: float
    dt_ref: float
    value_range: tuple[float, float]
    time_limits: str
    idle: Idle | None = None

    def __post_init__(self):
        require_one_of("config.data.time_limits", self.time_limits, TIME_LIMITS)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An episode, images still encoded, with all else that its segments need, computed once.

    embedding: of its instruction; table: a structured array [cuts] of `table_dtype`.
    """

    episode: Episode
    embedding: np.ndarray
    table: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of memory, about."""
        episode = self.episode
        frames = sum(
            encoded.nbytes(frames)
            for frames in episode.images.values()
            if not isinstance(frames, StoredFrames)
        )
        arrays = (episode.state, episode.actions, episode.rewards, self.table)
        return frames + sum(array.nbytes for array in arrays) + 4096


class BadFrame(Exception):
    """An image of a segment does not decode, now or when its features were computed. step: the episode's."""

    def __init__(self, camera: str, step: int):
        super().__init__(f"step {step}: image {camera!r} does not decode")
        self.camera, self.step = camera, step


@functools.lru_cache
def table_dtype(interface: Interface, length: int) -> np.dtype:
    """Returns the dtype of one row of a Segment without its images and instruction."""
    shapes = segment_struct(interface, 1, length)
    names = [field.name for field in dataclasses.fields(shapes)]
    left = [name for name in names if name not in ("images", "camera_mask", "instruction")]
    fields = {name: getattr(shapes, name) for name in left}
    return np.dtype([(name, field.dtype, field.shape[1:]) for name, field in fields.items()])


def prepare(episode: Episode, embedding: np.ndarray, layout: Layout) -> Prepared:
    """Computes all that the segments of an episode need but their decoded images."""
    if layout.time_limits == "terminal":
        episode = dataclasses.replace(episode, terminal=True)
    observation = layout.interface.observation
    state = np.zeros((len(episode.state), observation.state_dim), np.float32)
    state[:, : episode.state.shape[1]] = layout.state.normalize(episode.state)
    tokens, there, bins = _decisions(episode, layout)
    step = np.arange(episode.length + 1)
    ends = step == episode.length
    records = {
        "state": state,
        "tokens": tokens,
        "action_mask": there[: len(state)],
        "reward": episode.rewards,
        "mc_return": monte_carlo_returns(episode, layout.discount, layout.dt_ref, layout.value_range[0]),
        "step": step,
        "is_first": step == 0,
        "is_last": ends,
        "is_terminal": ends & episode.terminal,
        "valid": np.ones(len(state), bool),
    }

    starts, length = layout.cutting.starts(episode.length), layout.cutting.length
    table = np.zeros(len(starts), table_dtype(layout.interface, length))
    for name, values in records.items():
        for row, start in zip(table[name], starts):
            part = values[start : start + length]
            row[: len(part)] = part

    table["trainable"] = [layout.cutting.trainable(start, episode.length) for start in starts]
    if layout.idle:
        idle = np.zeros(starts[-1] + length, bool)
        idle[: episode.length] = layout.idle.steps(layout.own, episode.actions)
        table["trainable"] &= ~idle[np.add.outer(starts, np.arange(length))]
    table["bins"], table["dt"], table["success"] = bins, episode.dt, episode.success
    table["episode_return"], table["relabelled"] = episode.rewards.sum(), episode.relabelled
    return Prepared(episode, embedding, table)


def _decisions(episode: Episode, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns of each decision its tokens [T, D'], and of each observation which dims are there.

    The latter is bool [T + 1, D']: those that the dataset has, but not of a chunk's actions beyond the end of
    the episode. At o_T, where nothing was decided, none of them is missing. Last, the bins of the dims [D'].
    """
    chunk, network = layout.interface.chunk, layout.interface.decision
    own, length = layout.own.repeated(chunk), episode.length
    steps = np.arange(length)[:, None] + np.arange(chunk)
    within = steps < length
    actions = discretization.tokenize(layout.own, episode.actions)[np.minimum(steps, length - 1)]
    tokens, bins = np.zeros((length, network.dims), np.int32), own.bins_in(network)
    tokens[:, list(own.dims_in(network))] = np.where(within[..., None], actions, 0).reshape(length, -1)
    within = np.pad(within, [(0, 1), (0, 0)], constant_values=True)
    return tokens, (bins > 0) & np.repeat(within, network.dims // chunk, axis=1), bins


class Rows:
    """A batch that is filled row by row.

    layout: of any of its datasets, since the network's part is the same; rows: number of rows B; features:
    shape [h, w, C] of what is read in place of an image.
    """

    def __init__(self, layout: Layout, rows: int, buffers: Buffers, features: tuple[int, ...] | None = None):
        interface, length = layout.interface, layout.cutting.length
        observation = interface.observation

        def frames() -> np.ndarray:
            if features is None:
                return buffers.take((rows, length, *observation.image_size, 3))
            size = np.dtype(FEATURES).itemsize
            return buffers.take((rows, length, *features[:-1], features[-1] * size)).view(FEATURES)

        self._images = {camera: frames() for camera in observation.cameras}
        self._camera_mask = {camera: np.zeros(rows, bool) for camera in observation.cameras}
        self._instruction = np.zeros((rows, interface.instruction_dim), np.float32)
        self._table = np.zeros(rows, table_dtype(interface, length))

    def fill(self, row: int, prepared: Prepared, number: int, cutting: Cutting) -> Traffic:
        """Puts cut `number` of an episode into a row, and decodes each of its frames once, in place.

        Returns the bytes of the encoded frames, or of their features, and those that were read for them.

        Raises:
            BadFrame: if an image does not decode; fill the row again, or leave it out.

        """
        self._table[row] = prepared.table[number]
        self._instruction[row] = prepared.embedding
        start, total = number * cutting.stride, Traffic()
        for name, images in self._images.items():
            own = prepared.episode.images.get(name, ())
            frames = own[start : start + cutting.length]
            self._camera_mask[name][row] = name in prepared.episode.images
            fill = stored.fill if isinstance(own, StoredFrames) else encoded.fill
            try:
                total += fill(images[row], frames)
            except BadImage as error:
                raise BadFrame(name, start + error.place) from error
        return total

    def leave_out(self, row: int) -> None:
        """Empties a row: it trains nothing and counts in no metric."""
        for images in self._images.values():
            images[row] = 0
        self._table[row]["trainable"] = self._table[row]["is_first"] = False

    def segment(self) -> Segment:
        """Returns the batch, once every row is filled."""
        fields = {name: np.ascontiguousarray(self._table[name]) for name in self._table.dtype.names}
        return Segment(
            images=dict(self._images),
            camera_mask=dict(self._camera_mask),
            instruction=self._instruction,
            **fields,
        )
