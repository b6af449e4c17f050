"""K networks with parameters of their own, in one program. They learn apart and decide together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from qt_jax.models.network import Network
from qt_jax.models.q_transformer import in_steps
from qt_jax.segment import Segment
from qt_jax.specs import Interface

_AXIS = "networks"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """K = `config.networks` copies of a network, as pure functions of all their parameters.

    The parameters are a network's, with a leading axis K on each leaf. One network has no such axis: its
    programs, checkpoints and shardings are those of `Network`. What is kept of M frames has leaves
    [M, K, ...], of one network [M, ...].

    `agents.make_ensemble` makes the one that a config asks for.
    """

    network: Network

    @property
    def config(self) -> Any:
        """The experiment's `config.model`."""
        return self.network.config

    @property
    def interface(self) -> Interface:
        """What the networks are between."""
        return self.network.interface

    @property
    def count(self) -> int:
        """K."""
        return self.config.networks

    def with_config(self, config: Any) -> Ensemble:
        """Returns the same networks with another `config.model`."""
        return Ensemble(self.network.with_config(config))

    def each(self, function: Callable, *trees: Any, in_axes: Any = 0, out_axes: Any = 0) -> Any:
        """Maps a function of one network's trees over the axis K; of one network, which has none, calls it.

        `in_axes` and `out_axes` are those of `jax.vmap`.
        """
        if self.count == 1:
            return function(*trees)
        return jax.vmap(function, in_axes, out_axes, axis_name=_AXIS)(*trees)

    def keys(self, key: jax.Array) -> jax.Array:
        """Returns a key of each network; of one network, `key` itself."""
        return key if self.count == 1 else jax.random.split(key, self.count)

    def init(self, key: jax.Array) -> dict:
        """Returns fresh parameters, each network's by a key of its own; the same key gives the same bits."""
        return self.each(self.network.init, self.keys(key))

    def seen(self, params: dict, segment: Segment) -> Segment:
        """Returns a segment with the features of frozen encoders in place of its images.

        So they are computed once for online and target networks, which have the same. Without frozen
        encoders it stays as it is.
        """
        if not self.config.frozen_encoder:
            return segment
        one = params if self.count == 1 else jax.tree.map(lambda x: x[0], params)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), segment.images)
        features = self.network.frozen_features(one, flat)
        return dataclasses.replace(segment, images=jax.tree.map(lambda x: in_steps(x, segment), features))

    def score(self, params: dict, segment: Segment) -> jax.Array:
        """Computes each network's logits without dropout, float32 [K, B, S, D, N, A]; see `Network.score`."""
        logits = self.each(lambda params: self.network.score(params, segment), params)
        return logits[None] if self.count == 1 else logits

    def encode_frame(self, params: dict, *inputs: Any) -> Any:
        """Computes what is kept of frames; see `QTransformer.encode_frame`."""
        return self.each(lambda params: self.network.encode_frame(params, *inputs), params, out_axes=1)

    def decode_segment(self, params: dict, segment: Segment, scores: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.decode_segment`, and `greedy` for `scores`."""

        def decode(params):
            return self.network.decode_segment(params, segment, self._of_all(scores))

        return self.each(decode, params, out_axes=None)

    def greedy(self, params: dict, window_cache: Any, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.greedy`. `scores` is of all networks' logits, [K, M, N, A]."""
        return self._decide(self.network.greedy, params, window_cache, *inputs)

    def beam(self, params: dict, window_cache: Any, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.beam`, and `greedy` for `scores`."""
        return self._decide(self.network.beam, params, window_cache, *inputs)

    def rank(self, params: dict, window_cache: Any, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.rank`, and `greedy` for `scores` and `candidates`."""
        return self._decide(self.network.rank, params, window_cache, *inputs)

    def judge(self, params: dict, window_cache: Any, *inputs: Any) -> Any:
        """Judges given actions; see `decoding.judge`, and `greedy` for `known`."""
        return self._decide(self.network.judge, params, window_cache, *inputs)

    def _decide(self, decode: Callable, params: dict, window_cache: Any, *inputs: Any) -> Any:
        """Decodes with every network; all find the same action, which is returned."""
        inputs = tuple(self._of_all(x) if callable(x) else x for x in inputs)

        def decoded(params, cache):
            return decode(params, cache, *inputs)

        return self.each(decoded, params, window_cache, in_axes=(0, 2), out_axes=None)

    def _of_all(self, decide: Callable) -> Callable:
        """Turns a function of all networks' logits of a dim, and its index, into one of a network's own.

        Within `each` the networks exchange their logits before a dim's bin is decided.
        """

        def of_one(logits: jax.Array, dim: int) -> Any:
            return decide(logits[None] if self.count == 1 else jax.lax.all_gather(logits, _AXIS), dim)

        return of_one
