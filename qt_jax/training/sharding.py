"""Where each parameter lies on the mesh: a table of rules, and FSDP for the rest.

The optimiser's moments and the target network lie as their parameter does.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qt_jax.models.network import parameter_path

P = PartitionSpec
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # The leading axis of the Transformer's parameters is the layer. Heads, hidden units and bins lie on
    # `tensor`, so that a block needs one sum over it.
    (r"blocks/query/kernel", P(None, "fsdp", "tensor", None)),
    (r"blocks/query/bias", P(None, "tensor", None)),
    (r"blocks/key_value/kernel", P(None, "fsdp", None, "tensor", None)),
    (r"blocks/out/kernel", P(None, "tensor", None, "fsdp")),
    (r"blocks/up/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/up/bias", P(None, "tensor")),
    (r"blocks/down/kernel", P(None, "tensor", "fsdp")),
    (r"head", P(None, "fsdp", "tensor")),
)
"""(regular expression that the end of a parameter's path matches, its axes). The first match counts."""

SMALLEST = 1024
"""A parameter without a rule that has fewer elements is replicated: gathering costs more than keeping it."""


def decide(
    path: str, shape: tuple[int, ...], sizes: dict[str, int], networks: int = 1
) -> tuple[PartitionSpec, str]:
    """Chooses the PartitionSpec of a parameter on a mesh with these axis sizes, and says why.

    Of several networks, whose parameters have them on a leading axis, each lies like a single one.
    """
    if networks > 1 and shape:
        own, why = decide(path, shape[1:], sizes)
        return P(None, *own), why
    for pattern, spec in RULES:
        if re.search(rf"(^|/){pattern}$", path):
            refused = [
                f"{axis} ({size}) does not divide {n}"
                for axis, n in zip(spec, shape)
                if axis and n % (size := sizes[axis])
            ]
            axes = (axis if axis and n % sizes[axis] == 0 else None for axis, n in zip(spec, shape))
            return P(*axes), "; ".join([f"rule {pattern}", *refused])
    if math.prod(shape) < SMALLEST:
        return P(), "small"
    fitting = [i for i, n in enumerate(shape) if n % sizes["fsdp"] == 0]
    if not fitting:
        return P(), f"fsdp ({sizes['fsdp']}) divides no axis"
    largest = max(fitting, key=lambda i: shape[i])
    return P(*("fsdp" if i == largest else None for i in range(len(shape)))), "largest axis"


def of_state(mesh: Mesh, state: Any, networks: int = 1) -> Any:
    """Returns the NamedShardings of a train state (or any tree of parameters), as arrays or shapes."""

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        return NamedSharding(mesh, decide(parameter_path(path), x.shape, mesh.shape, networks)[0])

    return jax.tree_util.tree_map_with_path(place, state)


def abstract(state: Any, shardings: Any) -> Any:
    """Returns a tree's shapes, dtypes and shardings as ShapeDtypeStructs."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def bytes_per_device(tree: Any) -> int:
    """Adds up the bytes that each device holds of arrays or ShapeDtypeStructs with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def table(params: Any, networks: int = 1) -> str:
    """Formats a line for each parameter: path, shape, PartitionSpec, bytes on each device and the reason.

    Args:
        params: as `abstract` returns them.
        networks: whose parameters they are.

    """
    rows = [("parameter", "shape", "PartitionSpec", "bytes/device", "why")]
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = parameter_path(path)
        spec, why = decide(name, x.shape, x.sharding.mesh.shape, networks)
        rows.append((name, "x".join(map(str, x.shape)), str(tuple(spec)), f"{bytes_per_device(x):,}", why))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[4]]) + "\n" for row in rows
    )
