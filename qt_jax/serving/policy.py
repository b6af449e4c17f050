"""The policy runtime: one new frame a control step, the window's cache kept, D dims decoded in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax import discretization
from qt_jax.errors import UserError
from qt_jax.preprocess import Statistics
from qt_jax.specs import PolicySpec

Encode = Callable[[Any, dict[str, jax.Array], jax.Array, jax.Array], Any]
Decode = Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Action:
    """actions float32 [M, D] inside the spec's bounds; tokens int32 [M, D]; scores float32 [M, D, N], -inf at absent bins."""

    actions: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray


class Policy:
    """Greedy policy for `slots` robots stepped as one batch, each with its own window of past frames.

    Args:
        params: whatever `encode` and `decode` take first.
        encode: (params, {camera: uint8 [M, H, W, 3]}, state [M, state_dim], instruction [M, E]) -> cache pytree, leaves [M, ...].
        decode: (params, window of caches [M, w, ...] oldest first, mask [M, w]) -> tokens [M, D'], scores [M, D', N] of the network's dims.
        statistics: of this robot's raw state.
    """

    def __init__(self, spec: PolicySpec, statistics: Statistics, params: Any, encode: Encode, decode: Decode, slots: int):
        self.spec, self._statistics, self._params, self.slots = spec, statistics, params, slots
        frame = jax.eval_shape(encode, params, *self._empty_inputs())
        self._cache = jax.tree.map(lambda x: jnp.zeros((slots, spec.window, *x.shape[1:]), x.dtype), frame)
        self._mask = jnp.zeros((slots, spec.window), bool)

        def step(params, cache, mask, images, state, instruction, is_first):
            new = encode(params, images, state, instruction)
            cache = jax.tree.map(lambda window, frame: jnp.concatenate([window[:, 1:], frame[:, None]], axis=1), cache, new)
            kept = mask[:, 1:] & ~is_first[:, None]
            mask = jnp.concatenate([kept, jnp.ones_like(kept[:, :1], shape=(slots, 1))], axis=1)
            tokens, scores = decode(params, cache, mask)
            own = jnp.asarray(spec.slots)
            return cache, mask, tokens[:, own], scores[:, own]

        self._step = jax.jit(step, donate_argnums=(1, 2))

    def _empty_inputs(self):
        observation = self.spec.observation
        images = {name: jnp.zeros((self.slots, *observation.image_size, 3), jnp.uint8) for name in observation.cameras}
        return images, jnp.zeros((self.slots, observation.state_dim)), jnp.zeros((self.slots, self.spec.instruction_dim))

    def act(self, images: dict[str, np.ndarray], state: np.ndarray, instruction: np.ndarray, is_first: np.ndarray) -> Action:
        """One control step of every slot.

        Args:
            images: {camera: uint8 [M, H, W, 3]}. state: raw, float [M, state_dim]. instruction: float [M, E] embeddings.
            is_first: bool [M]; True forgets the slot's past, as at the start of an episode in training.

        Raises:
            UserError: naming the field whose shape, dtype or values are wrong. The windows are untouched then.
        """
        observation = self.spec.observation
        if set(images) != set(observation.cameras):
            raise UserError(f"Observation has cameras {sorted(images)}, the policy expects {sorted(observation.cameras)}.")
        for name, image in images.items():
            _check(f"images[{name!r}]", image, (self.slots, *observation.image_size, 3), np.uint8)
        _check("state", state, (self.slots, observation.state_dim), np.floating)
        _check("instruction", instruction, (self.slots, self.spec.instruction_dim), np.floating)
        _check("is_first", is_first, (self.slots,), np.bool_)
        inputs = (images, self._statistics.normalize(state), np.asarray(instruction, np.float32), is_first)
        self._cache, self._mask, tokens, scores = self._step(self._params, self._cache, self._mask, *inputs)
        tokens = np.asarray(tokens)
        return Action(discretization.detokenize(self.spec.action, tokens), tokens, np.asarray(scores))


def _check(name: str, value: np.ndarray, shape: tuple[int, ...], kind: Any) -> None:
    if value.shape != shape or not np.issubdtype(value.dtype, kind):
        found = f"{value.dtype}{list(value.shape)}"
        raise UserError(f"Observation field {name} is {found}, the policy expects {kind.__name__}{list(shape)}.")
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        raise UserError(f"Observation field {name} holds NaN or Inf; the policy expects finite numbers.")
