"""Keeps activations on the devices of their batch rows: sharded weights are gathered, activations are not."""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that split the rows of a batch."""


def by_row(x: jax.Array) -> jax.Array:
    """Splits `x` [rows, ...] by rows over `BATCH_AXES` of the mesh that `jax.set_mesh` gave.

    Without a mesh (serving, tests) it stays as it is.
    """
    if not set(BATCH_AXES) <= set(jax.sharding.get_abstract_mesh().axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))
