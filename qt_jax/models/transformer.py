"""The attention of Q-Transformer: frames, and action tokens that attend to a window of frames.

What a frame contributes is computed once and cached across control steps:
  "per_frame": a frame's tokens attend within their frame; the cache is each layer's keys and values. Nothing in it ever changes.
  "window" (as RT-1): the Transformer runs causally over the frames of each step's window; the cache is the frames' tokens.
Action tokens attend to the frames of the window (learned bias on relative age) and to earlier dims of the same step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

KeysValues = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """Pre-norm attention and MLP; keys and values are handed in, so that they can come from a cache."""

    def __init__(self, config, dtype, rngs: nnx.Rngs):
        width, self.heads = config.width, config.heads
        linear = lambda i, o: nnx.Linear(i, o, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.query, self.key_value, self.out = linear(width, width), linear(width, 2 * width), linear(width, width)
        self.mlp_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up, self.down = linear(width, config.mlp_ratio * width), linear(config.mlp_ratio * width, width)
        self.dropout = nnx.Dropout(config.dropout)

    def keys_values(self, x: jax.Array) -> KeysValues:
        """[M, T, width] -> keys and values [M, T, heads, head_dim]."""
        key, value = jnp.split(self.key_value(self.norm(x)), 2, axis=-1)
        return tuple(y.reshape(*y.shape[:-1], self.heads, -1) for y in (key, value))

    def __call__(self, x: jax.Array, keys_values: KeysValues, bias: jax.Array | None, rngs: nnx.Rngs | None) -> jax.Array:
        """x [M, T, width] attends to keys and values [M, K, heads, head_dim]; bias broadcasts to [M, heads, T, K]."""
        query = self.query(self.norm(x)).reshape(*x.shape[:-1], self.heads, -1)
        attended = jax.nn.dot_product_attention(query, *keys_values, bias=bias)
        drop = lambda y: self.dropout(y, deterministic=rngs is None, rngs=rngs)
        x = x + drop(self.out(attended.reshape(x.shape)))
        return x + drop(self.down(jax.nn.gelu(self.up(self.mlp_norm(x)))))


def _mask_bias(mask: jax.Array) -> jax.Array:
    """bool -> additive bias, float32."""
    return jnp.where(mask, 0.0, -1e9)


class Transformer(nnx.Module):
    """Frame tokens F a frame, D action tokens a step, `config.window` frames."""

    def __init__(self, config, action_dims: int, frame_tokens: int, dtype, rngs: nnx.Rngs):
        self.mode, self.window, self.dims, self.frame_tokens, self.dtype = config.attention, config.window, action_dims, frame_tokens, dtype
        self.blocks = nnx.List([Block(config, dtype, rngs) for _ in range(config.layers)])
        self.age_bias = nnx.Param(jnp.zeros((config.layers, config.heads, config.window)))
        normal = nnx.initializers.normal(0.02)
        self.age_embedding = nnx.Param(normal(rngs.params(), (config.window, config.width))) if self.mode == "window" else None

    def frame_cache(self, tokens: jax.Array, rngs: nnx.Rngs | None = None) -> Any:
        """What a frame is remembered by: tokens [M, F, width] -> pytree with leading axis M."""
        return tokens if self.mode == "window" else self._tower(tokens, None, rngs)

    def context(self, cache: Any, frame_mask: jax.Array, rngs: nnx.Rngs | None = None) -> list[KeysValues]:
        """Keys and values of each layer for the window: cache leaves [M, w, ...], frame_mask [M, w] -> [M, w*F, heads, head_dim]."""
        if self.mode == "per_frame":
            return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), cache)
        x = cache + self.age_embedding[...][:, None].astype(self.dtype)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        frame = jnp.repeat(jnp.arange(self.window), self.frame_tokens)
        causal = frame[:, None] >= frame[None, :]
        seen = jnp.repeat(frame_mask, self.frame_tokens, axis=-1)
        # A frame that is not there attends to itself: a row without any key would be NaN.
        mask = (causal & seen[:, None, :]) | (frame[:, None] == frame[None, :])
        return self._tower(x, _mask_bias(mask)[:, None], rngs)

    def _tower(self, x: jax.Array, bias: jax.Array | None, rngs: nnx.Rngs | None) -> list[KeysValues]:
        cache = []
        for i, block in enumerate(self.blocks):
            cache.append(block.keys_values(x))
            if i + 1 < len(self.blocks):  # after the last layer only keys and values are needed
                x = block(x, cache[-1], bias, rngs)
        return cache

    def _context_bias(self, layer: int, frame_mask: jax.Array) -> jax.Array:
        """[M, heads, 1, w*F]: absent frames masked, present ones by age."""
        bias = self.age_bias[...][layer][None] + _mask_bias(frame_mask)[:, None]
        return jnp.repeat(bias, self.frame_tokens, axis=-1)[:, :, None]

    def decode(self, context: list[KeysValues], frame_mask: jax.Array, actions: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Teacher-forced: action inputs [M, D, width] (start token, a^1 .. a^{D-1}) -> outputs [M, D, width]."""
        causal = _mask_bias(jnp.tril(jnp.ones((self.dims, self.dims), bool)))
        for layer, block in enumerate(self.blocks):
            own = block.keys_values(actions)
            keys_values = tuple(jnp.concatenate(pair, axis=1) for pair in zip(context[layer], own))
            frames = self._context_bias(layer, frame_mask)
            frames = jnp.broadcast_to(frames, (*frames.shape[:2], self.dims, frames.shape[-1]))
            steps = jnp.broadcast_to(causal, (*frames.shape[:3], self.dims))
            actions = block(actions, keys_values, jnp.concatenate([frames, steps], axis=-1).astype(self.dtype), rngs)
        return actions

    def decode_step(
        self, context: list[KeysValues], frame_mask: jax.Array, action: jax.Array, earlier: list[KeysValues] | None
    ) -> tuple[jax.Array, list[KeysValues]]:
        """One more dim: input [M, 1, width] and the earlier dims' keys and values -> output [M, 1, width] and the longer cache."""
        longer = []
        for layer, block in enumerate(self.blocks):
            own = block.keys_values(action)
            if earlier is not None:
                own = tuple(jnp.concatenate(pair, axis=1) for pair in zip(earlier[layer], own))
            longer.append(own)
            keys_values = tuple(jnp.concatenate(pair, axis=1) for pair in zip(context[layer], own))
            bias = jnp.pad(self._context_bias(layer, frame_mask), [(0, 0)] * 3 + [(0, own[0].shape[1])])
            action = block(action, keys_values, bias.astype(self.dtype), None)
        return action, longer
