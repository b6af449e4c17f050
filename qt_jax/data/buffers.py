"""Memory for images that is used again: fresh pages cost the kernel a tenth of the time that decoding small
JPEGs into them takes.
"""

from __future__ import annotations

import math

import numpy as np


class Buffers:
    """Arrays whose memory comes back by itself, once nothing refers to them any more (not even a jax.Array
    that shares it).
    """

    def __init__(self):
        self._free: dict[int, list[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint8, holding whatever was there before."""
        size = math.prod(shape)
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lease(memory, free)).reshape(shape)


class _Lease:
    """What an array made from it refers to as its base."""

    def __init__(self, memory: np.ndarray, free: list[np.ndarray]):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)
