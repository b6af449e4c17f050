"""The device mesh `data x fsdp x tensor`.

The code is the same for one CPU, simulated devices, a pod, and a topology to compile for.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from qt_jax.errors import UserError
from qt_jax.models.placement import BATCH_AXES

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(BATCH_AXES)
"""How a batch lies on the mesh: its rows are split over `data` and `fsdp`, not over `tensor`."""


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults."""
    config = ml_collections.ConfigDict()
    config.data = -1  # replicas of the parameters; -1: as many as the other axes leave
    config.fsdp = 1  # shards of parameters, optimiser and target network
    config.tensor = 1  # shards of heads, hidden units and bins
    return config


def axis_sizes(settings: Any, devices: int) -> tuple[int, int, int]:
    """Computes the sizes of `AXES` for that many devices.

    Raises:
        UserError: if their product cannot be the number of devices.

    """
    sizes = [settings[axis] for axis in AXES]
    shown = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{shown}: give positive sizes, and -1 (what is left) at most once.")
    fixed = math.prod(size for size in sizes if size != -1)
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise UserError(
            f"{shown}: together {fixed} on {devices} devices; their product must be the number of devices."
        )
    data, fsdp, tensor = (devices // fixed if size == -1 else size for size in sizes)
    return data, fsdp, tensor


def axis_across(settings: Any, devices: int, slices: int) -> int:
    """Chooses the axis, by its number in `AXES`, that crosses the slow network between slices.

    It is `data` if its size is a multiple of the slices, else `fsdp`.

    Raises:
        UserError: if neither is a multiple of the slices.

    """
    sizes = axis_sizes(settings, devices)
    for axis in (0, 1):
        if sizes[axis] % slices == 0:
            return axis
    raise UserError(
        f"config.mesh.data={sizes[0]} and config.mesh.fsdp={sizes[1]}: one must be a multiple of the "
        f"{slices} slices."
    )


def make_mesh(settings: Any, devices: list[Any] | None = None) -> jax.sharding.Mesh:
    """Makes the mesh of `config.mesh` over `devices` (default: all), `tensor` innermost.

    Links are fastest there. Of several slices (of TPUs, or NVLink domains) only one axis crosses the slow
    network between them: `axis_across`.

    Raises:
        UserError: if the sizes do not fit the devices or the slices.

    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = axis_sizes(settings, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        across = axis_across(settings, len(devices), slices)
        between = [slices if i == across else 1 for i in range(3)]
        within = [size // many for size, many in zip(sizes, between)]
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding of a batch, by its first axis."""
    return NamedSharding(mesh, BATCH)


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
    """Lists the rows of a global batch that this process's devices hold, each once, in order: int [R]."""
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def put_batch(local: Any, mesh: jax.sharding.Mesh, batch_size: int) -> Any:
    """Puts a batch on the mesh; each process gives its `local_rows`."""
    sharding = batch_sharding(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))

    return jax.tree.map(put, local)
