"""What every runtime of a policy takes and gives, in numpy.

policy/jax_policy.py is the one on jax, policy/onnx_policy.py that on onnxruntime.
"""

from __future__ import annotations

import abc
import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from qt_jax import discretization
from qt_jax.errors import UserError
from qt_jax.policy import candidates
from qt_jax.specs import PolicySpec
from qt_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Action:
    """What was decided for M episodes.

    Letters, here and in other runtimes: D dims of a decision (`Interface.decision`), N bins, h actions that
    are executed.
    """

    actions: np.ndarray
    """float32 [M, h, dims of one action], inside the spec's bounds."""
    tokens: np.ndarray
    """int32 [M, D], the chosen bins."""
    scores: np.ndarray
    """float32 [M, D, N], -inf at bins that do not exist or that the data does not support."""
    behaviour: np.ndarray | None = None
    """float32 [M, D, N], how probable bins are by the behaviour head; None of a policy without it."""

    @property
    def chosen(self) -> np.ndarray:
        """Scores of the chosen bins, [M, D]; `PolicySpec.score` makes a whole decision's of them."""
        return np.take_along_axis(self.scores, self.tokens[..., None], axis=-1)[..., 0]


class Runtime(abc.ABC):
    """The policy of up to `capacity` episodes at once, each with its own window of past frames.

    Args:
        spec: what the policy is.
        statistics: of this robot's raw state.
        capacity: of how many episodes it keeps the window.

    """

    def __init__(self, spec: PolicySpec, statistics: Statistics, capacity: int):
        self.spec, self._statistics, self.capacity = spec, statistics, capacity

    def act(
        self,
        episode: np.ndarray,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        instruction: np.ndarray,
        is_first: np.ndarray,
        executed: np.ndarray | None = None,
        uniforms: np.ndarray | None = None,
        step: np.ndarray | None = None,
    ) -> Action:
        """Makes one decision in M of the episodes.

        Args:
            episode: int [M], which of the episodes, from 0, each at most once.
            images: {camera: uint8 [M, H, W, 3]}.
            state: raw, float [M, state_dim].
            instruction: float [M, E], embeddings.
            is_first: bool [M]; True forgets the episode's past, as at the start of an episode in training.
            executed: int [M, D], bins of the decision at this frame, where it is a past one; -1, and by
                default: those that are decided now. A return-conditioned policy sees them in later decisions.
                Not checked.
            uniforms: float32 [M, K, D] in [0, 1), by which a policy that draws K actions does so; None, and
                by default, of any other.
            step: int32 [M], of each episode at this frame, from 0, where the policy tells steps apart; None,
                and by default, of any other.

        Raises:
            UserError: naming the field whose shape, dtype or values are wrong. The windows are untouched
                then.

        """
        frame = self._checked(episode, images, state, instruction, is_first)
        executed = undecided(self.spec, len(episode)) if executed is None else executed
        extra = _checked_extras(self.spec, len(episode), step=step, uniforms=uniforms)
        tokens, *of_bins = self._decide(*frame, executed, extra)
        interface = self.spec.interface
        actions = discretization.detokenize(interface.decision, tokens)
        actions = actions.reshape(len(tokens), interface.chunk, -1)[:, : interface.execute]
        return Action(actions, tokens, *of_bins)

    @abc.abstractmethod
    def _decide(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Computes tokens [M, D], scores [M, D, N] and, where the policy has it, behaviour [M, D, N].

        `inputs` are those of `act`, with the state normalised and `executed` given, and last {name: array} of
        the policy's `extras`.
        """

    def rank(
        self,
        episode: np.ndarray,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        instruction: np.ndarray,
        is_first: np.ndarray,
        proposed: Any,
        step: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks K candidates at a new frame of one episode, and decides nothing.

        Args:
            episode: int [1]; see `act` for this and what follows, of one row.
            images: {camera: uint8 [1, H, W, 3]}.
            state: float [1, state_dim].
            instruction: float [1, E].
            is_first: bool [1].
            proposed: the candidates; see `candidates.tokens`.
            step: int32 [1], where the policy tells steps apart.

        Returns:
            Q and support of each candidate, float32 [K]: see `candidates.Ranking`.

        Raises:
            UserError: naming what is wrong with the observation or a candidate. The windows are untouched
                then.

        """
        tokens = candidates.tokens(self.spec, proposed)
        frame = self._checked(episode, images, state, instruction, is_first)
        q, support = self._judge(*frame, _checked_extras(self.spec, 1, step=step), tokens)
        q = np.where(np.isfinite(q).all(axis=-1), q[:, self.spec.decided[-1]], -np.inf).astype(np.float32)
        return q, support.sum(-1) if self.spec.support_name == "log-probability" else support.min(-1)

    def _judge(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Computes Q and support of each dim of K candidates, [K, D]; a runtime that ranks none has it not.

        `inputs` are those of `rank`, with the state normalised, then {name: array} of the policy's `extras`
        but uniforms, and the candidates' bins [K, D].
        """
        raise NotImplementedError

    def _checked(
        self,
        episode: np.ndarray,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        instruction: np.ndarray,
        is_first: np.ndarray,
    ) -> tuple[Any, ...]:
        """Returns a frame of each episode as the programs take it. Raises a UserError for a bad one."""
        check(self.spec, images, state, instruction, rows=len(episode))
        state, instruction = self._statistics.normalize(state), instruction.astype(np.float32)
        return np.asarray(episode), images, state, instruction, np.asarray(is_first)

    def warm_up(self) -> None:
        """Decides and ranks once and forgets it, because the first time costs more than those that follow."""
        extra = extras(self.spec, 1)
        inputs = np.zeros(1, int), *self._inputs(1), np.ones(1, bool)
        self.act(*inputs, uniforms=extra.get("uniforms"), step=extra.get("step"))
        self._rank_once(episode=0)
        self.forget_all()

    def _rank_once(self, episode: int) -> None:
        """Ranks as many candidates as each size of programs has, if the policy ranks any."""
        own, step = self.spec.interface, extras(self.spec, 1).get("step")
        inputs = np.full(1, episode), *self._inputs(1), np.ones(1, bool)
        for size in candidates.sizes(self.spec.candidates):
            self.rank(*inputs, np.broadcast_to(own.action.low, (size, own.chunk, own.action.dims)), step)

    def _inputs(self, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Returns images, state and instruction of so many observations, all 0."""
        observation = self.spec.interface.observation
        images = {
            name: np.zeros((rows, *observation.image_size, 3), np.uint8) for name in observation.cameras
        }
        return (
            images,
            np.zeros((rows, observation.state_dim), np.float32),
            np.zeros((rows, self.spec.interface.instruction_dim), np.float32),
        )

    @abc.abstractmethod
    def correct(self, episode: int, tokens: np.ndarray) -> None:
        """Says that in an episode's last frame other bins [D] were executed than were decided there."""

    @abc.abstractmethod
    def forget_all(self) -> None:
        """Empties every window."""


def undecided(spec: PolicySpec, rows: int) -> np.ndarray:
    """Returns the `executed` of frames at which the policy decides."""
    return np.full((rows, spec.interface.decision.dims), -1, np.int32)


def extras(spec: PolicySpec, rows: int) -> dict[str, np.ndarray]:
    """Returns what only some policies take in `Runtime.act`, all 0.

    It is the `step` of one that tells steps apart, and the `uniforms` of one that draws its actions.
    """
    found: dict[str, np.ndarray] = {}
    if spec.timesteps:
        found["step"] = np.zeros(rows, np.int32)
    if spec.decoding.draws:
        found["uniforms"] = np.zeros((rows, spec.decoding.count, spec.interface.decision.dims), np.float32)
    return found


def _checked_extras(spec: PolicySpec, rows: int, **given: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns what was given. Raises a UserError for what is missing of `extras`, or is none of them."""
    expected = extras(spec, rows)
    kinds = {"step": f"of {spec.timesteps} timesteps", "uniforms": f"that decodes {spec.decoding}"}
    for name, value in given.items():
        found, wanted = ("None" if x is None else shown(x) for x in (value, expected.get(name)))
        if found != wanted:
            raise UserError(f"{name} is {found}, a policy {kinds[name]} expects {wanted}.")
    return {name: value for name, value in given.items() if value is not None}


def check(
    spec: PolicySpec,
    images: dict[str, np.ndarray],
    state: np.ndarray,
    instruction: np.ndarray,
    rows: int | None = None,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Raises a UserError naming a field of an observation, or of `rows` of them, that is not as expected.

    A field that `keys` has is named by the robot's own key.
    """
    observation, batch = spec.interface.observation, () if rows is None else (rows,)
    cameras = sorted(observation.cameras)
    if not isinstance(images, Mapping):
        raise UserError(f"Observation field images is {shown(images)}, the policy expects a dict: {cameras}.")
    if set(images) != set(observation.cameras):
        raise UserError(f"Observation has cameras {sorted(map(str, images))}, the policy expects {cameras}.")
    fields = {
        f"images[{name!r}]": (image, "uint8", (*batch, *observation.image_size, 3))
        for name, image in images.items()
    }
    fields["state"] = state, "floating", (*batch, observation.state_dim)
    fields["instruction"] = instruction, "floating", (*batch, spec.interface.instruction_dim)
    for name, field in fields.items():
        _check_field(f"key {keys[name]!r}" if keys and name in keys else f"field {name}", *field)


def _check_field(name: str, value: Any, kind: str, shape: tuple[int, ...]) -> None:
    """`kind` is uint8, or floating, whose numbers must be finite."""
    good = isinstance(value, np.ndarray) and value.shape == shape
    if not good or not (value.dtype == np.uint8 if kind == "uint8" else value.dtype.kind == "f"):
        expected = f"{'' if isinstance(value, np.ndarray) else 'a numpy array, '}{kind}{list(shape)}"
        raise UserError(f"Observation {name} is {shown(value)}, the policy expects {expected}.")
    if kind == "floating" and not _finite(value):
        raise UserError(f"Observation {name} holds NaN or Inf; the policy expects finite numbers.")


def _finite(value: np.ndarray) -> bool:
    """Whether all numbers are finite in float32, which the networks see."""
    if value.dtype != np.float32:
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
    return bool(np.isfinite(value).all())


def shown(value: Any) -> str:
    """Describes a value briefly: an array's dtype and shape, of anything else its type and beginning."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__} ({' '.join(reprlib.repr(value).split())[:40]})"
