"""What every runtime of a policy takes and gives, in numpy: serving/policy.py (jax) and serving/onnx_policy.py (onnxruntime)."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np

from qt_jax import discretization
from qt_jax.errors import UserError
from qt_jax.specs import PolicySpec
from qt_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Action:
    """actions float32 [M, D] inside the spec's bounds; tokens int32 [M, D]; scores float32 [M, D, N], -inf at absent bins."""

    actions: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray

    @property
    def chosen(self) -> np.ndarray:
        """Scores of the chosen bins, [M, D]; `PolicySpec.score` makes one of them."""
        return np.take_along_axis(self.scores, self.tokens[..., None], axis=-1)[..., 0]


class Runtime(abc.ABC):
    """The policy of up to `slots` episodes at once, each with its own window of past frames; statistics: of this robot's raw state."""

    def __init__(self, spec: PolicySpec, statistics: Statistics, slots: int):
        self.spec, self._statistics, self.slots = spec, statistics, slots

    def act(
        self,
        slot: np.ndarray,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        instruction: np.ndarray,
        is_first: np.ndarray,
        executed: np.ndarray | None = None,
    ) -> Action:
        """One control step of M of the episodes.

        Args:
            slot: int [M], which episodes, each at most once.
            images: {camera: uint8 [M, H, W, 3]}. state: raw, float [M, state_dim]. instruction: float [M, E] embeddings.
            is_first: bool [M]; True forgets the slot's past, as at the start of an episode in training.
            executed: int [M, D], of a frame that is told again: the bins of the action that followed it; -1, and by default: those that are
                decided now. Later decisions of a policy with `config.model.past_actions` know them. Not checked.

        Raises:
            UserError: naming the field whose shape, dtype or values are wrong. The windows are untouched then.
        """
        check(self.spec, images, state, instruction, rows=len(slot))
        executed = undecided(self.spec, len(slot)) if executed is None else executed
        inputs = images, self._statistics.normalize(state), instruction.astype(np.float32), np.asarray(is_first), executed
        tokens, scores = self._decide(np.asarray(slot), *inputs)
        return Action(discretization.detokenize(self.spec.action, tokens), tokens, scores)

    @abc.abstractmethod
    def _decide(self, slot: np.ndarray, *inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [M, D] and scores [M, D, N]. inputs: as `act` has them, the state normalised, nothing left out."""

    @abc.abstractmethod
    def forget_all(self) -> None:
        """Empties every window."""


def undecided(spec: PolicySpec, rows: int) -> np.ndarray:
    """`executed` of frames at which the policy decides."""
    return np.full((rows, spec.action.dims), -1, np.int32)


def check(spec: PolicySpec, images: dict[str, np.ndarray], state: np.ndarray, instruction: np.ndarray, rows: int | None = None) -> None:
    """Raises a UserError naming the field of an observation (of `rows` observations) that the policy does not take."""
    observation, batch = spec.observation, () if rows is None else (rows,)
    if set(images) != set(observation.cameras):
        raise UserError(f"Observation has cameras {sorted(images)}, the policy expects {sorted(observation.cameras)}.")
    for name, image in images.items():
        if image.shape != (*batch, *observation.image_size, 3) or image.dtype != np.uint8:
            raise _unexpected(f"images[{name!r}]", image, "uint8", (*batch, *observation.image_size, 3))
    for name, value, size in (("state", state, observation.state_dim), ("instruction", instruction, spec.instruction_dim)):
        if value.shape != (*batch, size) or value.dtype.kind != "f":
            raise _unexpected(name, value, "floating", (*batch, size))
        if not np.isfinite(value).all():
            raise UserError(f"Observation field {name} holds NaN or Inf; the policy expects finite numbers.")


def _unexpected(name: str, value: np.ndarray, kind: str, shape: tuple[int, ...]) -> UserError:
    return UserError(f"Observation field {name} is {value.dtype}{list(value.shape)}, the policy expects {kind}{list(shape)}.")
