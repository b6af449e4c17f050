"""The device mesh, and where the train state and the batches live on it. One code path for one CPU and for many devices."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def make_mesh() -> jax.sharding.Mesh:
    """All devices on the axis `data` (parameters are replicated; other axes come with the cluster-scale learner)."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    return jax.device_put(batch, batch_sharding(mesh))
