"""Actions that somebody else proposes: which of them a policy can rank, and what it says of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qt_jax import discretization
from qt_jax.errors import UserError
from qt_jax.specs import PolicySpec

SIZES = (4, 16, 64, 256, 1024)
"""Numbers of candidates that are compiled, up to the policy's own limit; fewer are filled up."""
MAX_HORIZON = 256
"""Actions of a candidate at most, of which those beyond the policy's chunk are not read."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What a policy says of K candidates."""

    q: np.ndarray
    """float32 [K], Q of each whole decision; -inf where one of its bins is left out (`agent.support`)."""
    support: np.ndarray
    """float32 [K], the greater the nearer to the data: `PolicySpec.support_name` says what it is."""
    step: int
    """Number of the decision in its episode, from 0."""
    policy: str = ""
    """Name of the policy, where it has one."""

    @property
    def order(self) -> np.ndarray:
        """The candidates' numbers by Q, best first, int32 [K]; of equals the earlier first."""
        return np.argsort(-self.q, kind="stable").astype(np.int32)


def sizes(most: int) -> tuple[int, ...]:
    """Returns the numbers of candidates to compile, so that 1 to `most` can be ranked; of 0 none."""
    return (*(size for size in SIZES if size < most), most) if most else ()


def tokens(spec: PolicySpec, candidates: Any) -> np.ndarray:
    """Returns the bins int32 [K, D] of the decisions that candidates begin with.

    Args:
        spec: of the policy, whose decision has D dims: `chunk` actions.
        candidates: numbers [K, H, dims of one action], H at least `chunk`; later actions are not read.

    Raises:
        UserError: if the policy ranks none, or not so many; if they have another shape, or what is read is
            not finite or beyond the action's bounds. It names the candidate and the dim.

    """
    own, most = spec.interface, spec.candidates
    if not most:
        raise UserError(
            "This policy ranks no candidates; export with --candidates=16, or load a run with "
            "load_policy(candidates=16)."
        )
    dims = own.action.dims
    expected = f"[K, H, {dims}], K from 1 to {most}, H from {own.chunk} to {MAX_HORIZON}"
    if not isinstance(candidates, np.ndarray) or candidates.dtype.kind not in "fiu":
        kind = candidates.dtype if isinstance(candidates, np.ndarray) else type(candidates).__name__
        raise UserError(f"Candidates are of type {kind}; give an array of numbers {expected}.")
    shape = candidates.shape
    good = len(shape) == 3 and 1 <= shape[0] <= most and own.chunk <= shape[1] <= MAX_HORIZON
    if not good or shape[2] != dims:
        raise UserError(f"Candidates have shape {list(shape)}; give {expected}.")

    read = candidates[:, : own.chunk].astype(np.float64).reshape(shape[0], -1)
    below, above = discretization.beyond(own.decision, read)
    bad = below | above | ~np.isfinite(read)
    if bad.any():
        candidate, dim = np.argwhere(bad)[0]
        low, high = own.decision.low[dim], own.decision.high[dim]
        raise UserError(
            f"Candidate {candidate} has {own.decision.names[dim]} = {read[candidate, dim]:g}; give a number "
            f"in [{low:g}, {high:g}]."
        )
    return discretization.tokenize(own.decision, read)
