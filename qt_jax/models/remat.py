"""Which activations of a block the backward pass keeps, and which it computes again."""

from __future__ import annotations

from collections.abc import Callable

import jax

POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""none: keep all; dots: keep the results of matrix products with parameters; full: keep a block's inputs."""


def rematerialised(block: Callable, policy: str, in_loop: bool = False) -> Callable:
    """Returns `block` with what the backward pass keeps of it.

    Args:
        block: a function of arrays.
        policy: one of `POLICIES`.
        in_loop: it is the body of a `scan`, where XLA cannot undo the recomputation.

    """
    if policy == "none":
        return block
    return jax.checkpoint(block, policy=POLICIES[policy], prevent_cse=not in_loop)
