"""Compares two runtimes of a policy: on the same observations, the same scores and the same bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.runtime import Runtime
from qt_jax.specs import PolicySpec

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far scores may differ, by compute dtype (default of this project): sums have another order."""


def observations(spec: PolicySpec, rows: int, seed: int) -> dict[str, Any]:
    """Returns random observations, as `Runtime.act` takes them."""
    rng, observation = np.random.default_rng(seed), spec.interface.observation
    return {
        "images": {
            name: rng.integers(0, 256, (rows, *observation.image_size, 3), np.uint8)
            for name in observation.cameras
        },
        "state": rng.normal(size=(rows, observation.state_dim)).astype(np.float32),
        "instruction": rng.normal(scale=0.05, size=(rows, spec.interface.instruction_dim)).astype(np.float32),
    }


def compare(reference: Runtime, other: Runtime, dtype: str) -> dict[str, Any]:
    """Steps both through two episodes longer than the window, and compares scores of the same prefix.

    Args:
        reference: the policy to agree with.
        other: the policy that is checked.
        dtype: that both compute in, of `TOLERANCE`.

    Returns:
        {"decisions": how many were compared, "max_difference": of scores, "tolerance": what is allowed,
        "ties": share of dims whose two best bins differ by less than twice the tolerance in the reference,
        "other_bins": share of dims that chose another bin, all of them ties}.

    Raises:
        UserError: if a score differs by more than the tolerance, or a bin differs that is no tie.

    """
    rows, tolerance = min(reference.capacity, other.capacity), TOLERANCE[dtype]
    steps = 2 * reference.spec.window + 2
    episodes, worst, ties, differing, dims = np.arange(rows), 0.0, 0, 0, 0
    decided = list(reference.spec.decided)
    for step in range(2 * steps):
        inputs = observations(reference.spec, rows, seed=step)
        is_first = np.full(rows, step % steps == 0)
        expected = reference.act(episodes, **inputs, is_first=is_first)
        found = other.act(episodes, **inputs, is_first=is_first, executed=expected.tokens)

        same = expected.tokens == found.tokens
        earlier = np.pad(same[:, decided], [(0, 0), (1, 0)], constant_values=True)[:, :-1]
        prefix = np.cumprod(earlier, axis=1).astype(bool)[:, np.argsort(decided)]
        present = np.isfinite(expected.scores) & prefix[..., None]
        worst = max(worst, float(np.abs(expected.scores[present] - found.scores[present]).max()))
        best = np.sort(expected.scores, axis=-1)[..., -2:]
        tie = (best[..., 1] - best[..., 0] < 2 * tolerance) & prefix
        if worst > tolerance or (~same & prefix & ~tie).any():
            raise UserError(
                f"The exported policy does not agree with its original: scores differ by up to {worst:.3g}, "
                f"{tolerance:g} is allowed for {dtype}. Report this with the config; export from a float32 "
                "model meanwhile."
            )
        ties += int(tie.sum())
        differing += int((~same & prefix).sum())
        dims += int(prefix.sum())

    return {
        "decisions": 2 * steps * rows,
        "max_difference": worst,
        "tolerance": tolerance,
        "ties": ties / dims,
        "other_bins": differing / dims,
    }


def summary(result: dict[str, Any], reference: str) -> str:
    """Returns the result of `compare` in one line."""
    return (
        f"agrees with {reference} in {result['decisions']} decisions: scores differ by up to "
        f"{result['max_difference']:.2g} ({result['tolerance']:g} allowed), {result['ties']:.1%} of dims are "
        f"ties, {result['other_bins']:.1%} chose another bin"
    )
