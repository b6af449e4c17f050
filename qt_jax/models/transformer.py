"""The attention of Q-Transformer: frames, and action tokens that attend to a window of frames.

What a frame contributes is computed once and cached across control steps:

"per_frame": a frame's tokens attend within their frame. The cache is each layer's keys and values; nothing in
    it ever changes.
"window" (as RT-1): the Transformer runs causally over the frames of each step's window. The cache is the
    frames' tokens.

Action tokens attend to the frames of the window, with a learned bias for each age, and to earlier dims of the
same step; in a return-conditioned network also to a token of the action at each earlier frame of the window.

The parameters of all layers are stacked on a leading axis, whether `config.scan_layers` compiles one layer,
in a loop, or all of them. So either reads the other's checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qt_jax.models import entropy
from qt_jax.models.placement import by_row
from qt_jax.models.remat import rematerialised

ATTENTION = ("per_frame", "window")
KeysValues = tuple[jax.Array, jax.Array]


class Block(nnx.Module):
    """Pre-norm attention and MLP; keys and values are arguments, so that they can come from a cache."""

    def __init__(self, config, dtype, rngs: nnx.Rngs):
        width, per_head = config.width, (config.heads, config.width // config.heads)

        def linear(i, o, **options):
            return nnx.LinearGeneral(i, o, dtype=dtype, rngs=rngs, **options)

        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.query = linear(width, per_head)
        # A key's bias would change nothing in the softmax, and `out` has the value's.
        self.key_value = linear(width, (2, *per_head), use_bias=False)
        self.out = linear(per_head, width, axis=(-2, -1))
        self.mlp_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up, self.down = linear(width, config.mlp_ratio * width), linear(config.mlp_ratio * width, width)
        self.dropout = nnx.Dropout(config.dropout)

    def keys_values(self, x: jax.Array) -> KeysValues:
        """Computes keys and values [M, T, heads, head_dim] of tokens [M, T, width]."""
        both = by_row(self.key_value(self.norm(x)))
        return both[..., 0, :, :], both[..., 1, :, :]

    def __call__(
        self, x: jax.Array, keys_values: KeysValues, bias: jax.Array | None, key: jax.Array | None
    ) -> jax.Array:
        """Has tokens [M, T, width] attend to keys and values [M, K, heads, head_dim] -> [M, T, width].

        `bias` broadcasts to [M, heads, T, K]; `key` is dropout's.
        """
        rngs = None if key is None else nnx.Rngs(dropout=key)
        attended = jax.nn.dot_product_attention(self.query(self.norm(x)), *keys_values, bias=bias)

        def drop(y):
            return self.dropout(y, deterministic=rngs is None, rngs=rngs)

        x = by_row(x + drop(self.out(attended)))
        return by_row(x + drop(self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))))

    def entropy(self, x: jax.Array, keys: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Computes the entropy of the attention that `__call__` gives each token, [M, T].

        It is a share of the greatest (`entropy.share`), the mean of the heads.
        """
        query = self.query(self.norm(x))
        wide = jnp.promote_types(query.dtype, jnp.float32)
        logits = jnp.einsum("mthd,mkhd->mhtk", query, keys, preferred_element_type=wide)
        bias = jnp.zeros((), wide) if bias is None else bias
        logits = logits / math.sqrt(query.shape[-1]) + bias
        return entropy.share(logits, bias > _MASKED / 2).mean(axis=1)


_MASKED = -1e9


def _mask_bias(mask: jax.Array) -> jax.Array:
    """Bool -> additive bias, float32."""
    return jnp.where(mask, 0.0, _MASKED)


class Transformer(nnx.Module):
    """The stack of blocks.

    Letters: F tokens of a frame, w frames of a window, P past actions and D action tokens of a step, L
    layers.

    What takes a list `entropies` appends the attention entropy of its tokens to it, as a share of the
    greatest: [L - 1, M] of frames (the mean of those that are there; the last layer gives keys and values
    alone) and [L, M, D] of action tokens.
    """

    def __init__(self, config, frame_tokens: int, past_actions: int, dtype, rngs: nnx.Rngs):
        self.mode, self.window, self.layers = config.attention, config.window, config.layers
        self.past = past_actions
        self.frame_tokens, self.dtype = frame_tokens, dtype
        self.scan, self.remat = config.scan_layers, config.remat
        self.entropy_weight = nnx.Param(entropy.initial(config.layers)) if config.entropy_target else None
        make_block = nnx.vmap(lambda rngs: Block(config, dtype, rngs), in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=config.layers)(make_block)(rngs)
        self.age_bias = nnx.Param(jnp.zeros((config.layers, config.heads, config.window)))
        normal = nnx.initializers.normal(0.02)
        self.age_embedding = (
            nnx.Param(normal(rngs.params(), (config.window, config.width))) if self.mode == "window" else None
        )

    def _over_layers(
        self, layer: Callable, carry: Any, inputs: Any, rngs: nnx.Rngs | None
    ) -> tuple[Any, Any]:
        """Runs `layer(block, index, carry, input, dropout_key) -> carry, output` through the stack.

        Inputs and outputs have a leading axis L.
        """
        graphdef, params = nnx.split(self.blocks)
        keys = None if rngs is None else jax.random.split(rngs.dropout(), self.layers)

        def step(carry, each):
            index, params, key, one = each
            return layer(nnx.merge(graphdef, params), index, carry, one, key)

        step = rematerialised(step, self.remat, in_loop=self.scan)
        if self.scan:
            return jax.lax.scan(step, carry, (jnp.arange(self.layers), params, keys, inputs))
        outputs = []
        for index, each in enumerate(_unstacked((params, keys, inputs), self.layers)):
            carry, output = step(carry, (index, *each))
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    def frame_cache(
        self, tokens: jax.Array, rngs: nnx.Rngs | None = None, entropies: list[jax.Array] | None = None
    ) -> Any:
        """Computes what is kept of a frame: tokens [M, F, width] -> pytree with leading axis M."""
        if self.mode == "window":
            return tokens
        there = jnp.ones(tokens.shape[:2], bool)
        keys_values = self._tower(tokens, None, rngs, there, entropies)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), keys_values)

    def context(
        self,
        cache: Any,
        frame_mask: jax.Array,
        rngs: nnx.Rngs | None = None,
        entropies: list[jax.Array] | None = None,
    ) -> KeysValues:
        """Computes the window's keys and values, [L, M, w*F, heads, head_dim].

        Cache leaves are [M, w, ...], `frame_mask` is bool [M, w]: which frames are there.
        """
        if self.age_embedding is None:

            def by_layer(x: jax.Array) -> jax.Array:
                return jnp.moveaxis(x, 2, 0).reshape(self.layers, x.shape[0], -1, *x.shape[-2:])

            return jax.tree.map(by_layer, cache)

        x = cache + self.age_embedding[...][:, None].astype(self.dtype)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        frame = jnp.repeat(jnp.arange(self.window), self.frame_tokens)
        causal = frame[:, None] >= frame[None, :]
        seen = jnp.repeat(frame_mask, self.frame_tokens, axis=-1)
        # A frame that is not there attends to itself: a row without any key would be NaN.
        mask = (causal & seen[:, None, :]) | (frame[:, None] == frame[None, :])
        return self._tower(x, _mask_bias(mask)[:, None], rngs, seen, entropies)

    def _tower(
        self,
        x: jax.Array,
        bias: jax.Array | None,
        rngs: nnx.Rngs | None,
        there: jax.Array,
        entropies: list[jax.Array] | None,
    ) -> KeysValues:
        """Computes each layer's keys and values [L, M, T, heads, head_dim] of tokens [M, T, width].

        `there` [M, T] are the tokens whose entropy counts.
        """

        def layer(block, index, x, _, key):
            keys_values = block.keys_values(x)
            spread = None if entropies is None else block.entropy(x, keys_values[0], bias)
            # Of the last layer only keys and values are needed.
            x = jax.lax.cond(index + 1 < self.layers, lambda: block(x, keys_values, bias, key), lambda: x)
            return x, (keys_values, spread)

        keys_values, spread = self._over_layers(layer, x, None, rngs)[1]
        if entropies is not None:
            entropies.append(jnp.mean(spread[:-1], axis=-1, where=there))
        return keys_values

    def _bias(self, age_bias: jax.Array, frame_mask: jax.Array, queries: int, keys: int) -> jax.Array:
        """Computes the bias of the last `queries` of the first `keys` action tokens of a step.

        Absent frames and their actions are masked; frames have a bias for their age; action tokens do not
        see later ones. `age_bias` [heads, w] of a layer -> [M, heads, queries, w*F + keys].
        """
        frames = jnp.repeat(age_bias[None] + _mask_bias(frame_mask)[:, None], self.frame_tokens, axis=-1)[
            :, :, None
        ]
        frames = jnp.broadcast_to(frames, (*frames.shape[:2], queries, frames.shape[-1]))
        causal = jnp.tril(jnp.ones((queries, keys), bool), keys - queries)
        there = jnp.pad(frame_mask[:, : self.past], [(0, 0), (0, keys - self.past)], constant_values=True)
        actions = _mask_bias(causal & there[:, None, None])
        actions = jnp.broadcast_to(actions, (*frames.shape[:3], keys))
        return jnp.concatenate([frames, actions], axis=-1).astype(self.dtype)

    def decode(
        self,
        context: KeysValues,
        frame_mask: jax.Array,
        actions: jax.Array,
        rngs: nnx.Rngs | None = None,
        entropies: list[jax.Array] | None = None,
    ) -> jax.Array:
        """Computes the outputs [M, D, width] of all dims, teacher-forced.

        `actions` [M, P + D, width] are the past actions, the start token, and a^1 .. a^{D-1}.
        """
        count = actions.shape[1]

        def layer(block, _, actions, inputs, key):
            context, age_bias = inputs
            bias = self._bias(age_bias, frame_mask, count, count)
            keys_values = _joined(context, block.keys_values(actions))
            spread = None if entropies is None else block.entropy(actions, keys_values[0], bias)
            return block(actions, keys_values, bias, key), spread

        outputs, spread = self._over_layers(layer, actions, (context, self.age_bias[...]), rngs)
        if entropies is not None:
            entropies.append(spread[..., self.past :])
        return outputs[:, self.past :]

    def decode_step(
        self, context: KeysValues, frame_mask: jax.Array, actions: jax.Array, earlier: KeysValues | None
    ) -> tuple[jax.Array, KeysValues]:
        """Computes the output [M, 1, width] of the next dim, and keys and values that include its inputs.

        `actions` [M, n, width] are the inputs after those of `earlier` [L, M, i, heads, head_dim]: at first
        all past actions and the start token, then one dim at a time.
        """

        def layer(block, _, actions, inputs, key):
            context, age_bias, earlier = inputs
            own = block.keys_values(actions)
            own = own if earlier is None else _joined(earlier, own)
            bias = self._bias(age_bias, frame_mask, actions.shape[1], own[0].shape[1])
            return block(actions, _joined(context, own), bias, key), own

        outputs, longer = self._over_layers(layer, actions, (context, self.age_bias[...], earlier), None)
        return outputs[:, -1:], longer


def _joined(first: KeysValues, second: KeysValues) -> KeysValues:
    keys, values = (jnp.concatenate(pair, axis=1) for pair in zip(first, second))
    return keys, values


def _unstacked(tree: Any, layers: int) -> list[Any]:
    """[L, ...] leaves -> L trees.

    The gradient of `lax.split` is one concatenation; that of indexing would be a padded array for each layer.
    """
    leaves, structure = jax.tree.flatten(tree)
    parts = zip(*([part[0] for part in jax.lax.split(leaf, (1,) * layers)] for leaf in leaves))
    return [jax.tree.unflatten(structure, part) for part in parts]
