"""The policy runtime on jax.

A control step encodes one new frame, keeps the window's cache and decodes D dims, in one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.policy import candidates
from qt_jax.policy.runtime import Runtime, extras, undecided
from qt_jax.specs import PolicySpec
from qt_jax.statistics import Statistics

Encode = Callable[..., Any]
Decode = Callable[..., tuple[jax.Array, ...]]
Judge = Callable[..., tuple[jax.Array, jax.Array]]


class Policy(Runtime):
    """A `Runtime` of two jax functions, or three.

    Args:
        spec: what the policy is.
        statistics: of this robot's raw state.
        params: whatever `encode` and `decode` take first.
        encode: (params, {camera: uint8 [M, H, W, 3]}, state [M, state_dim], instruction [M, E]; and of a
            policy that tells steps apart step [M]) -> cache pytree, leaves [M, ...].
        decode: (params, window of caches [M, w, ...] oldest first, mask [M, w], bins [M, w, D] of the robot's
            decisions at these frames but the newest; and of a policy that draws uniforms [M, K, D]) -> tokens
            [M, D'], scores and, of a policy that has it, behaviour [M, D', N] of the network's dims.
        capacity: see `Runtime`.
        buckets: batch sizes that are compiled; a call takes the least that is large enough, or the largest
            several times. Default: `capacity`.
        judge: of a policy that ranks candidates: (params, the window, mask and bins of one row as `decode`
            takes them, bins [1, K, D] of the candidates) -> Q and support [1, K, D'].

    """

    def __init__(
        self,
        spec: PolicySpec,
        statistics: Statistics,
        params: Any,
        encode: Encode,
        decode: Decode,
        capacity: int,
        buckets: Sequence[int] = (),
        judge: Judge | None = None,
    ):
        super().__init__(spec, statistics, capacity)
        self._params = params
        self.buckets = tuple(sorted(set(buckets))) or (capacity,)
        devices = {
            device
            for leaf in jax.tree.leaves(params)
            if isinstance(leaf, jax.Array)
            for device in leaf.devices()
        }
        self._device = devices.pop() if len(devices) == 1 else None
        extra = extras(spec, self.buckets[0])
        self._frame = jax.eval_shape(encode, params, *self._inputs(self.buckets[0]), *_only("step", extra))
        self.forget_all()

        def seen(params, past, episode, images, state, instruction, is_first, extra):
            """Moves the rows' windows one frame on."""
            cache, mask, actions = past
            new = encode(params, images, state, instruction, *_only("step", extra))
            window = jax.tree.map(
                lambda kept, frame: jnp.concatenate([kept[episode, 1:], frame[:, None]], axis=1), cache, new
            )
            there = jnp.pad(mask[episode, 1:] & ~is_first[:, None], [(0, 0), (0, 1)], constant_values=True)
            return window, there, jnp.pad(actions[episode, 1:], [(0, 0), (0, 1), (0, 0)])

        def kept(past, episode, windows):
            return jax.tree.map(lambda kept, rows: kept.at[episode].set(rows), past, windows)

        def step(params, past, episode, images, state, instruction, is_first, executed, extra):
            window, there, done = seen(params, past, episode, images, state, instruction, is_first, extra)
            decided = decode(params, window, there, done, *_only("uniforms", extra))
            decided = tuple(x[:, jnp.asarray(spec.network_dims)] for x in decided)
            done = done.at[:, -1].set(jnp.where(executed < 0, decided[0], executed))
            return kept(past, episode, (window, there, done)), decided

        def rank(params, past, episode, *inputs):
            assert judge is not None, "a policy that ranks candidates has a judge"
            *frame, tokens = inputs
            windows = seen(params, past, episode, *frame)
            judged = judge(params, *jax.tree.map(lambda x: x[:1], windows), tokens)
            return kept(past, episode, windows), tuple(
                x[0][:, jnp.asarray(spec.network_dims)] for x in judged
            )

        def correct(past, episode, executed):
            cache, mask, actions = past
            return cache, mask, actions.at[episode, -1].set(executed)

        self._step = jax.jit(step, donate_argnums=1)
        self._ranked = jax.jit(rank, donate_argnums=1)
        self._corrected = jax.jit(correct, donate_argnums=0)

    def forget_all(self) -> None:
        """Empties every window."""
        shape = self.capacity + 1, self.spec.window  # one episode more: of rows that fill a bucket up
        cache = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[1:]), x.dtype), self._frame)
        empty = (
            cache,
            jnp.zeros(shape, bool),
            jnp.zeros((*shape, self.spec.interface.decision.dims), jnp.int32),
        )
        # Exported programs give arrays that are bound to their device. With other arrays at first, the next
        # step would be compiled again.
        self._past = jax.device_put(empty, self._device)

    def warm_up(self) -> None:
        """Compiles every bucket, and every number of candidates, so that no later call has to."""
        for bucket in self.buckets:
            self._run(
                np.full(bucket, self.capacity),
                *self._inputs(bucket),
                np.ones(bucket, bool),
                undecided(self.spec, bucket),
                extras(self.spec, bucket),
            )
        self._rank_once(self.capacity)
        self.correct(self.capacity, undecided(self.spec, 1)[0])

    def correct(self, episode: int, tokens: np.ndarray) -> None:
        """Says what was executed: see `Runtime.correct`."""
        self._past = self._corrected(self._past, np.int32(episode), tokens)

    def _decide(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        parts = []
        for start in range(0, len(episode), self.buckets[-1]):
            rows = slice(start, start + self.buckets[-1])
            parts.append(self._bucket(episode[rows], *jax.tree.map(lambda x, rows=rows: x[rows], inputs)))
        return tuple(np.concatenate(part) for part in zip(*parts))

    def _judge(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        *frame, tokens = inputs
        count = len(tokens)
        size = next(size for size in candidates.sizes(self.spec.candidates) if size >= count)
        filled = np.pad(tokens, [(0, size - count), (0, 0)])
        judged = self._call(self._ranked, *self._filled(episode, *frame), filled[None])
        return tuple(x[:count] for x in judged)

    def _bucket(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        """Decides as many rows as the largest bucket has, or fewer."""
        return tuple(x[: len(episode)] for x in self._run(*self._filled(episode, *inputs)))

    def _filled(self, episode: np.ndarray, *inputs: Any) -> tuple[Any, ...]:
        """Adds rows of the spare episode, up to the least bucket that is large enough."""
        if missing := next(b for b in self.buckets if b >= len(episode)) - len(episode):
            episode = np.pad(episode, (0, missing), constant_values=self.capacity)
            inputs = jax.tree.map(lambda x: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)), inputs)
        return episode, *inputs

    def _run(self, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        return self._call(self._step, episode, *inputs)

    def _call(self, program: Callable, episode: np.ndarray, *inputs: Any) -> tuple[np.ndarray, ...]:
        index = episode.astype(np.int32)
        self._past, found = program(self._params, self._past, index, *inputs)
        return tuple(map(np.asarray, found))


def _only(name: str, extra: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the array of that name, if the policy takes one."""
    return (extra[name],) if name in extra else ()
