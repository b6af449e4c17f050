"""How an action is decided, dim after dim: greedily, by beam search, or as the best of actions drawn.

And how given actions are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.models.q_transformer import QTransformer, in_steps
from qt_jax.segment import Segment

Scores = Callable[[jax.Array, int], Any]
"""(logits [M, N, A] of one dim, the dim) -> scores [M, N], of absent bins -inf: the best bin is decided.

Or a tuple that begins with them; the others, such as probabilities, are returned beside them."""


def decode_segment(model: QTransformer, segment: Segment, scores: Any) -> tuple[jax.Array, jax.Array]:
    """Decodes an action greedily at every step of a segment; each frame is encoded once.

    Args:
        model: with its parameters.
        segment: its own actions are seen as earlier ones alone, by a return-conditioned network.
        scores: see `greedy`, with M = B * S.

    Returns:
        tokens int32 [B, S, D], and what `scores` gives, float32 [B, S, D, N].

    """
    context, frame_mask, past = model.steps(segment, None)
    return jax.tree.map(
        lambda x: in_steps(x, segment), _decode(model, context, frame_mask, past, _greatest(scores))
    )


def greedy(
    model: QTransformer, window_cache: Any, frame_mask: jax.Array, executed: jax.Array, scores: Scores
) -> tuple[jax.Array, Any]:
    """Decodes actions dim after dim with a key-value cache, each the bin of the best score.

    Args:
        model: with its parameters.
        window_cache: what is kept of the window's frames, leaves [M, w, ...].
        frame_mask: bool [M, w], which frames are there.
        executed: int [M, w, D], bins of the actions at the window's frames; the newest frame's are not
            read.
        scores: see `Scores`.

    Returns:
        The bins int32 [M, D], and what `scores` gives, float32 [M, D, N].

    """
    context, past = model.window_context(window_cache, frame_mask, model.past_actions(executed))
    return _decode(model, context, frame_mask, past, _greatest(scores))


def _decode(
    model: QTransformer, context: Any, frame_mask: jax.Array, past: jax.Array | None, choose: Any
) -> tuple[jax.Array, Any]:
    """Decodes dim after dim.

    choose: logits [M, N, A] of one dim and its index -> its bin [M], and what is known of its bins, a
        pytree of [M, N].
    """
    shape = (frame_mask.shape[0], 1, model.start[...].shape[-1])
    action, earlier, tokens, values = jnp.broadcast_to(model.start[...], shape), None, [], []
    for i in range(model.dims):
        inputs = (action + model.dim_position[...][i]).astype(model.dtype)
        inputs = inputs if i else model.after_past(past, inputs)
        output, earlier = model.transformer.decode_step(context, frame_mask, inputs, earlier)
        token, value = choose(model.logits(output, slice(i, i + 1))[:, 0], i)
        tokens.append(token)
        values.append(value)
        action = model.bin_embedding[...][i, token][:, None]
    of_bins = jax.tree.map(lambda *dims: jnp.stack(dims, axis=1), *values)
    return jnp.stack(tokens, axis=1).astype(jnp.int32), of_bins


def beam(
    model: QTransformer,
    window_cache: Any,
    frame_mask: jax.Array,
    executed: jax.Array,
    scores: Scores,
    width: int,
    additive: bool,
    present: np.ndarray,
) -> tuple[jax.Array, Any]:
    """Decodes as `greedy`, but keeps the `width` best prefixes from dim to dim; returns the best action.

    A prefix ranks by the score of its last dim (a Q-value is that of the whole prefix), or by the sum
    where scores are additive.

    Args:
        model: with its parameters.
        window_cache: see `greedy`.
        frame_mask: see `greedy`.
        executed: see `greedy`.
        scores: see `greedy`.
        width: of the beam.
        additive: whether the scores of dims add up.
        present: bool [D], dims that the robot has; the others rank nothing.

    """
    batch = frame_mask.shape[0]

    def wide(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, width, axis=0)

    mask = wide(frame_mask)
    context, past = model.window_context(
        jax.tree.map(wide, window_cache), mask, model.past_actions(wide(executed))
    )
    shape = batch * width, 1, model.start[...].shape[-1]
    action, earlier = jnp.broadcast_to(model.start[...], shape), None
    # At first all prefixes are the same, so the first alone ranks.
    rank = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    tokens, values, rows = jnp.zeros((batch, width, 0), jnp.int32), None, jnp.arange(batch)[:, None]

    for i in range(model.dims):
        inputs = (action + model.dim_position[...][i]).astype(model.dtype)
        inputs = inputs if i else model.after_past(past, inputs)
        output, earlier = model.transformer.decode_step(context, mask, inputs, earlier)
        value = scores(model.logits(output, slice(i, i + 1))[:, 0], i)
        value = jax.tree.map(lambda x: x.reshape(batch, width, 1, -1), value)

        if present[i]:
            score = _deciding(value)[:, :, 0]
            if additive:
                total = rank[..., None] + score
            else:
                total = jnp.where(jnp.isfinite(rank)[..., None], score, -jnp.inf)
            rank, chosen = jax.lax.top_k(total.reshape(batch, -1), width)
            parent, token = jnp.divmod(chosen, model.max_bins)
        else:
            parent = jnp.broadcast_to(jnp.arange(width), (batch, width))
            token = jnp.zeros((batch, width), jnp.int32)

        def follow(x: jax.Array, parent: jax.Array = parent) -> jax.Array:
            return x.reshape(x.shape[0], batch, width, *x.shape[2:])[:, rows, parent].reshape(x.shape)

        earlier = jax.tree.map(follow, earlier)
        tokens = jnp.concatenate([tokens[rows, parent], token[..., None]], axis=2)
        kept = [value] if values is None else [values, value]
        kept = jax.tree.map(lambda *dims: jnp.concatenate(dims, axis=2), *kept)
        values = jax.tree.map(lambda x, parent=parent: x[rows, parent], kept)
        action = model.bin_embedding[...][i, token.reshape(-1)][:, None]
    best = jnp.argmax(rank, axis=1)
    tokens, values = jax.tree.map(lambda x: x[rows[:, 0], best], (tokens, values))
    return tokens.astype(jnp.int32), values


def rank(
    model: QTransformer,
    window_cache: Any,
    frame_mask: jax.Array,
    executed: jax.Array,
    scores: Scores,
    candidates: Any,
    uniforms: jax.Array,
    present: np.ndarray,
) -> tuple[jax.Array, Any]:
    """Draws K whole actions, and returns the one whose last dim has the greatest Q.

    Args:
        model: with its parameters.
        window_cache: see `greedy`.
        frame_mask: see `greedy`.
        executed: see `greedy`.
        scores: see `greedy`; they decide nothing.
        candidates: the agent's: logits [M * K, N, A] of one dim, and the dim -> the probabilities from
            which its bin is drawn and the Q of its bins, each [M * K, N]; of absent bins 0 and -inf.
        uniforms: [M, K, D] in [0, 1), which decide the draws.
        present: bool [D], dims that the robot has; the others rank nothing.

    Returns:
        The bins int32 [M, D] of the best action, and what `scores` gives of its dims, float32 [M, D, N].

    """
    batch, count, _ = uniforms.shape
    context, mask, past = _for_each(count, model, window_cache, frame_mask, executed)

    def choose(logits: jax.Array, dim: int) -> tuple[jax.Array, Any]:
        probabilities, q = candidates(logits, dim)
        below = jnp.cumsum(probabilities, axis=-1) <= uniforms[..., dim].reshape(-1, 1)
        last = probabilities.shape[-1] - 1 - jnp.argmax(probabilities[..., ::-1] > 0, axis=-1)
        token = jnp.minimum(below.sum(-1), last)  # rounding may leave the sum below 1
        return token, (q, scores(logits, dim))

    tokens, (q, values) = jax.tree.map(
        lambda x: x.reshape(batch, count, *x.shape[1:]), _decode(model, context, mask, past, choose)
    )
    last = np.flatnonzero(present)[-1]
    q = jnp.take_along_axis(q[:, :, last], tokens[:, :, last, None], axis=-1)[..., 0]
    best, rows = jnp.argmax(q, axis=1), jnp.arange(batch)
    return jax.tree.map(lambda x: x[rows, best], (tokens, values))


def judge(
    model: QTransformer,
    window_cache: Any,
    frame_mask: jax.Array,
    executed: jax.Array,
    tokens: jax.Array,
    known: Any,
) -> Any:
    """Computes what is known of K given actions, all dims of all of them in one pass.

    Args:
        model: with its parameters.
        window_cache: see `greedy`.
        frame_mask: see `greedy`.
        executed: see `greedy`.
        tokens: int [M, K, D], the bins of the actions; 0 in dims that the robot has not.
        known: (logits [M * K, D, N, A], `slice(None)`: all dims) -> a pytree of [M * K, D, N].

    Returns:
        What is known of the given bins, a pytree of float32 [M, K, D]; each dim given those before it.

    """
    batch, count, dims = tokens.shape
    context, mask, past = _for_each(count, model, window_cache, frame_mask, executed)
    given = tokens.reshape(batch * count, dims)
    embedded = jnp.stack([model.bin_embedding[...][i, given[:, i]] for i in range(dims)], axis=1)
    outputs = model.transformer.decode(context, mask, model.after_past(past, model.action_inputs(embedded)))

    def of_given(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, given[..., None], axis=-1).reshape(batch, count, dims)

    return jax.tree.map(of_given, known(model.logits(outputs, slice(None)), slice(None)))


def _for_each(
    count: int, model: QTransformer, window_cache: Any, frame_mask: jax.Array, executed: jax.Array
) -> tuple[Any, jax.Array, jax.Array | None]:
    """Computes each window's context once, and repeats it, its mask and its past actions for `count` actions.

    The count may be a symbol, which `jnp.repeat` does not take.
    """
    context, past = model.window_context(window_cache, frame_mask, model.past_actions(executed))

    def wide(x: jax.Array, axis: int = 0) -> jax.Array:
        repeated = jnp.broadcast_to(
            jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], count, *x.shape[axis + 1 :])
        )
        return repeated.reshape(*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :])

    context = jax.tree.map(lambda x: wide(x, axis=1), context)
    return context, wide(frame_mask), jax.tree.map(wide, past)


def _greatest(scores: Any) -> Any:
    """Returns a `choose` of `_decode` that takes the bin with the greatest score."""

    def choose(logits, dim):
        values = scores(logits, dim)
        return jnp.argmax(_deciding(values), axis=-1), values

    return choose


def _deciding(values: Any) -> jax.Array:
    """Returns the scores of what a `Scores` gives."""
    return values[0] if isinstance(values, tuple) else values
