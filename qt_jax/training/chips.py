"""Published peak figures of accelerators, and the measured matmul peak where there are none.

TPU: docs.cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e. Their networks: v5p 50 Gbit/s a chip; v5e 6.4
Tbit/s a pod of 256; v6e 4 x 200 Gbit/s a host of 8; of v4 the page says nothing, and v5p's is assumed. GPU:
NVIDIA's data sheets (dense, SXM; the network of its DGX). Peaks are bf16.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Chip:
    """flops: bf16 FLOP/s. memory: bytes. bandwidth: bytes/s of the memory. interconnect: bytes/s of all links
    of a chip, one way. network: bytes/s of a chip's share of its host's network, one way.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    network: float


CHIPS = {
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, 6.25e9),
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 200e9, 3.125e9),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 6.25e9),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1640e9, 400e9, 12.5e9),
    "NVIDIA A100": Chip(312e12, 80 * 2**30, 2039e9, 300e9, 25e9),
    "NVIDIA H100": Chip(989e12, 80 * 2**30, 3350e9, 450e9, 50e9),
    "NVIDIA H200": Chip(989e12, 141 * 2**30, 4800e9, 450e9, 50e9),
}


def published(kind: str) -> Chip | None:
    """By `device.device_kind`, the longest name that it starts with."""
    names = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None


def total_peak(mesh: jax.sharding.Mesh) -> float:
    """FLOP/s of the mesh: published bf16 peaks added up, or what the cores do in a matmul, however many
    devices they simulate.
    """
    chip = published(mesh.devices.flat[0].device_kind)
    return chip.flops * mesh.size if chip else measured_peak() * jax.process_count()


@functools.cache
def measured_peak(n: int = 2048, repeats: int = 5) -> float:
    """Best FLOP/s of some float32 n^3 matmuls on this process's first device."""
    x = jax.device_put(np.ones((n, n), np.float32), jax.local_devices()[0])
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)
