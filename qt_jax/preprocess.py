"""What training and serving must do alike: images, state normalisation, the window of past frames."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.errors import UserError
from qt_jax.specs import Array


def images_to_float(images: Array, size: tuple[int, int]) -> Array:
    """uint8 [..., H, W, 3] to float32 in [-1, 1], resized to `size` (bilinear, antialiased) where it differs."""
    images = jnp.asarray(images, jnp.float32) / 127.5 - 1.0
    if images.shape[-3:-1] != tuple(size):
        images = jax.image.resize(images, (*images.shape[:-3], *size, images.shape[-1]), "bilinear")
    return images


@dataclasses.dataclass(frozen=True)
class StateStatistics:
    """Mean and standard deviation of the state vector, each a tuple of `state_dim` floats."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, state: np.ndarray) -> StateStatistics:
        """From raw states [M, state_dim]."""
        state = np.asarray(state, np.float64)
        return cls(tuple(state.mean(0).tolist()), tuple(state.std(0).tolist()))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> StateStatistics:
        """Reads `to_json`'s output.

        Raises:
            UserError: if a field is missing or the fingerprint does not match the numbers.
        """
        missing = {"mean", "std", "fingerprint"} - set(value)
        if missing:
            raise UserError(f"State statistics lack {sorted(missing)}; export or train the checkpoint again.")
        statistics = cls(tuple(value["mean"]), tuple(value["std"]))
        if statistics.fingerprint() != value["fingerprint"]:
            raise UserError(
                f"State statistics have fingerprint {statistics.fingerprint()}, expected {value['fingerprint']}: "
                "the file was edited or damaged; restore it from the checkpoint it belongs to."
            )
        return statistics

    def to_json(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std), "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        return hashlib.sha256(np.asarray([self.mean, self.std], np.float64).tobytes()).hexdigest()[:16]

    def normalize(self, state: np.ndarray) -> np.ndarray:
        """Raw [..., state_dim] to float32 of about unit scale; a constant entry becomes 0; clipped to +-10."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scaled = np.where(std > 1e-6, (state - mean) / np.maximum(std, 1e-6), 0.0)
        return np.clip(scaled, -10.0, 10.0).astype(np.float32)


def windows(x: Array, window: int) -> Array:
    """[B, S, ...] to [B, S, window, ...]: at step s the entries s-window+1 .. s, oldest first, zeros before the start."""
    padded = jnp.pad(x, [(0, 0), (window - 1, 0)] + [(0, 0)] * (x.ndim - 2))
    return jnp.stack([padded[:, age : age + x.shape[1]] for age in range(window)], axis=2)
