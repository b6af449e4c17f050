"""Activations stay where their batch rows are, so that a sharded weight comes to them and not they to it."""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that split the rows of a batch."""


def by_row(x: jax.Array) -> jax.Array:
    """X [rows, ...] split by rows over `BATCH_AXES` of the mesh that `jax.set_mesh` gave.

    As it is without one (serving, tests).
    """
    if not set(BATCH_AXES) <= set(jax.sharding.get_abstract_mesh().axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))
