"""Published peak figures of accelerators, and a measured peak where there are none.

TPUs: docs.cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e. Their networks: v5p 50 Gbit/s a chip; v5e
6.4 Tbit/s a pod of 256; v6e 4 x 200 Gbit/s a host of 8; the page of v4 names none, and v5p's is assumed.
GPUs: NVIDIA's data sheets (dense, SXM; the network of its DGX). Peaks are bf16.
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
    """Peak figures of a chip.

    Attributes:
        flops: bf16 FLOP/s.
        memory: bytes.
        bandwidth: bytes/s, of the memory.
        interconnect: bytes/s, of all links of the chip, one way.
        network: bytes/s, of its share of the host's network, one way.

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
    """Looks a chip up by `device.device_kind`; None if it is unknown."""
    names = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None


def total_peak(mesh: jax.sharding.Mesh) -> float:
    """Computes the peak FLOP/s of a mesh.

    It is the sum of the published bf16 peaks; on CPUs, what their cores do in a matmul, however many devices
    they simulate.
    """
    chip = published(mesh.devices.flat[0].device_kind)
    return chip.flops * mesh.size if chip else measured_peak() * jax.process_count()


@functools.cache
def measured_peak(n: int = 1024, repeats: int = 5) -> float:
    """Measures the best FLOP/s of float32 matmuls [n, n] x [n, n] on this process's first device."""
    x = jax.device_put(np.ones((n, n), np.float32), jax.local_devices()[0])
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)
