"""Episodes -> segments: where to cut, what each cut trains on, and the arrays of one cut."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import simplejpeg

from qt_jax import discretization
from qt_jax.data.episodes import Episode, monte_carlo_returns
from qt_jax.errors import UserError
from qt_jax.preprocess import StateStatistics
from qt_jax.specs import DEMONSTRATION, ActionSpec


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


class SegmentSource:
    """Random access to all segments of some episodes: `source[i]` is one `Segment` without its batch axis, as a dict of arrays."""

    def __init__(
        self,
        episodes: tuple[Episode, ...],
        cutting: Cutting,
        action: ActionSpec,
        statistics: StateStatistics,
        *,
        discount: float,
        dt_ref: float,
        q_min: float,
    ):
        self._episodes = episodes
        self._cutting = cutting
        self._index = [(e, start) for e, episode in enumerate(episodes) for start in cutting.starts(episode.length)]
        self._tokens = [discretization.tokenize(action, episode.actions) for episode in episodes]
        self._state = [statistics.normalize(episode.state) for episode in episodes]
        self._returns = [monte_carlo_returns(episode, discount, dt_ref, q_min) for episode in episodes]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def is_demonstration(self) -> np.ndarray:
        """bool [len(self)]."""
        return np.asarray([self._episodes[e].collector == DEMONSTRATION for e, _ in self._index], bool)

    def __getitem__(self, index: int) -> dict:
        e, start = self._index[index]
        episode, length = self._episodes[e], self._cutting.length
        stop = min(start + length, episode.length + 1)
        step = np.arange(start, start + length)
        valid = step <= episode.length
        return {
            "images": {name: _pad(self._frames(episode, name, start, stop), length) for name in episode.images},
            "state": _pad(self._state[e][start:stop], length),
            "instruction": episode.embedding,
            "tokens": _pad(self._tokens[e][start:stop], length),
            "action_mask": np.repeat(valid[:, None], self._tokens[e].shape[1], axis=1),
            "reward": _pad(episode.rewards[start:stop], length),
            "mc_return": _pad(self._returns[e][start:stop], length),
            "dt": np.full(length, episode.dt, np.float32),
            "is_first": step == 0,
            "is_last": step == episode.length,
            "is_terminal": (step == episode.length) & episode.terminal,
            "valid": valid,
            "trainable": self._cutting.trainable(start, episode.length),
            "success": np.asarray(episode.success),
        }

    def _frames(self, episode: Episode, name: str, start: int, stop: int) -> np.ndarray:
        try:
            return np.stack([decode(image) for image in episode.images[name][start:stop]])
        except (ValueError, OSError) as error:
            raise UserError(
                f"Episode {episode.episode_id!r}: an image {name!r} of steps {start} to {stop - 1} does not decode ({error}); "
                "collect it again."
            ) from error


def decode(image: bytes) -> np.ndarray:
    if simplejpeg.is_jpeg(image):
        return simplejpeg.decode_jpeg(image)
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def _pad(x: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([x, np.zeros((length - len(x), *x.shape[1:]), x.dtype)]) if len(x) < length else x
