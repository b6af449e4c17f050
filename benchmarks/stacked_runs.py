"""Several small state-only runs as one program: the train step of every run, mapped over runs.

All of their segments are on the device. It is for seeds, datasets and settings (`TRACED`) of one config, on
an accelerator that a single small run would leave idle. Run r takes the same segments in the same order as
`train` would with the loader, and the same step; only the order of floating-point sums differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.pool import Pool
from qt_jax.data.order import Group, Order, Reader
from qt_jax.models.ensemble import Ensemble
from qt_jax.segment import Segment
from qt_jax.training import traced
from qt_jax.training.state import TrainState, init_state, train_step

TRACED = tuple(name for name in traced.TRACED if name != "train.steps")
"""Settings in which the runs of a fleet may differ."""


def joined(pools: Sequence[Pool]) -> tuple[dict[str, np.ndarray], list[int]]:
    """Joins the arrays of all pools, and says where each pool begins."""
    offsets = np.cumsum([0, *(len(pool.table) for pool in pools)])
    kinds = np.cumsum([0, *(len(pool.embeddings) for pool in pools)])
    names = pools[0].table.dtype.names
    arrays = {name: np.concatenate([pool.table[name] for pool in pools]) for name in names}
    arrays["instruction"] = np.concatenate([pool.instruction + first for pool, first in zip(pools, kinds)])
    arrays["embeddings"] = np.concatenate([pool.embeddings for pool in pools])
    return arrays, offsets[:-1].tolist()


def rows(
    groups: tuple[Group, ...], pool: Pool, *, seed: int, steps: int, batch_size: int, shuffle_episodes: int
) -> np.ndarray:
    """Returns the rows of the pool in a run's batches, in the loader's order: int32 [steps, batch_size]."""
    order = Order(groups, batch_size, -(-shuffle_episodes // (batch_size * len(groups))), seed)
    reader = Reader(order, np.arange(batch_size))
    return np.asarray(
        [[pool.first[d.source, d.episode] + d.cut for d in reader.batch(step)] for step in range(steps)],
        np.int32,
    )


def gather(arrays: dict[str, jax.Array], rows: jax.Array) -> Segment:
    """Makes the batch of these rows, [B]."""
    fields = {
        name: values[rows] for name, values in arrays.items() if name not in ("instruction", "embeddings")
    }
    return Segment(
        images={}, camera_mask={}, instruction=arrays["embeddings"][arrays["instruction"][rows]], **fields
    )


class Fleet:
    """The train states of several runs of one program, and the steps that train them together.

    Args:
        config: of all runs, with a value range.
        ensemble: of all runs.
        arrays: all segments, as from `joined`.
        own: of each run its values of `TRACED`, those that the config has.

    """

    def __init__(
        self, config: Any, ensemble: Ensemble, arrays: dict[str, np.ndarray], own: Sequence[dict[str, float]]
    ):
        self._arrays = jax.device_put(arrays)

        def step(states: TrainState, arrays: Any, rows: jax.Array) -> tuple[TrainState, dict]:
            def one(state, rows):
                return train_step(config, ensemble, state, gather(arrays, rows))

            return jax.vmap(one)(states, rows)

        def steps(states: TrainState, arrays: Any, rows: jax.Array) -> tuple[TrainState, dict]:
            states, metrics = jax.lax.scan(lambda states, rows: step(states, arrays, rows), states, rows)
            return states, jax.tree.map(lambda x: x.mean(0), metrics)

        self._steps = jax.jit(steps, donate_argnums=0)
        differing = {name: jnp.asarray([values[name] for values in own]) for name in own[0]}
        self.states = jax.jit(jax.vmap(lambda own: init_state(traced.With(config, own), ensemble)))(differing)

    def train(self, rows: np.ndarray) -> dict[str, jax.Array]:
        """Trains on rows [steps, runs, B]; returns the mean metrics of each run."""
        self.states, metrics = self._steps(self.states, self._arrays, rows)
        return metrics

    def params(self) -> list[dict]:
        """Returns the parameters of each run, in numpy."""
        stacked = jax.device_get(self.states.params)
        count = len(jax.tree.leaves(stacked)[0])
        return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)]
