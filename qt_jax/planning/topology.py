"""Devices to compile for that need not be here: of a TPU slice, by its real compiler, or simulated CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from qt_jax.errors import UserError
from qt_jax.training import chips

LIBTPU = Path(".libtpu/libtpu/libtpu.so")
"""Where `make libtpu` puts the compiler."""

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
SLICES = {"v5e": _FLAT, "v6e": _FLAT, "v4": _CUBES, "v5p": _CUBES}
"""Topologies of each kind of TPU, from the smallest."""
GPUS = {"a100": "NVIDIA A100", "h100": "NVIDIA H100", "h200": "NVIDIA H200"}
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
STAND_IN = "v5p:4x4x4"
"""GPUs cannot be compiled for without one: as many chips of this topology take their place."""


def ascending(kind: str) -> Iterator[tuple[str, list[Any], float]]:
    """Lists the slices of a kind of TPU, or numbers of a GPU, from the smallest.

    Yields:
        The name, the devices to compile for, and the bytes of memory of each.

    Raises:
        UserError: for an unknown kind, and as `tpu_devices` does.

    """
    if kind in SLICES:
        for shape in SLICES[kind]:
            devices = tpu_devices(f"{kind}:{shape}")
            chip = chips.published(devices[0].device_kind)
            assert chip is not None, devices[0].device_kind
            yield f"{kind}:{shape}", devices, chip.memory
    elif kind in GPUS:
        devices = tpu_devices(STAND_IN)
        for count in GPU_COUNTS:
            yield f"{count} x {kind}", devices[:count], chips.CHIPS[GPUS[kind]].memory
    else:
        raise UserError(f"--fits={kind}: expected one of {', '.join([*SLICES, *GPUS])}.")


def cpu_devices(count: int) -> list[Any]:
    """Simulates CPU devices on this machine. Must be called before anything touches a device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()


def tpu_devices(name: str, slices: int = 1) -> list[Any]:
    """Describes the devices of `slices` slices of a topology such as `v5e:4x4`, to compile for.

    Raises:
        UserError: if the TPU compiler is not installed or does not know the topology.

    """
    library = Path(os.environ.get("TPU_LIBRARY_PATH", LIBTPU)).resolve()
    if not library.exists():
        raise UserError(
            f"--topology={name} needs the TPU compiler, which is not at {library}; run `make libtpu` or set "
            "TPU_LIBRARY_PATH.",
            topic="missing-package",
        )
    jax.config.update("jax_platforms", "cpu")
    # Without a TPU and its metadata server, this is what the compiler asks for.
    os.environ |= {
        "TPU_LIBRARY_PATH": str(library),
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans may run at a time, since none uses a chip
    }
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices)
        return list(topology.devices)
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"--topology={name} is unknown to the TPU compiler ({first_line}); give e.g. v5e:4x4, v4:2x2x2 "
            "or v5p:2x2x4."
        ) from error
