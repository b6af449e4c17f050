"""Counts what a program computes, and what it moves to and from memory, from its trace.

No compiler is asked: its count is of one backend's program. This one is of the accelerators' program, where
that differs from the CPUs', and of this definition:

- FLOPs are two for each product that matrix products and convolutions add up. Zeros around an image count,
  zeros between the pixels in a strided convolution's gradient do not.
- A matrix product, a convolution, a reduction, a gather, a scatter or a sort is a kernel: it reads each
  operand from memory and writes each result there, once.
- All else (elementwise functions, conversions, changes of shape) is part of the kernel that reads it. Such an
  operand is read as the arrays in memory that it is made of, or as itself where that is less: the kernel
  before may have written it.
- Reductions of the same arrays read them once, such as a mean and a mean of squares.
- What is returned, and no kernel wrote, is computed in one last pass: the optimiser's, for example.
- A loop counts as often as it runs. Of alternatives, the one that counts most.

So it is the least that kernels of one product each move. Compilers move more; a kernel that makes several
products, such as flash attention, moves less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from qt_jax.errors import UserError

_PRODUCTS = ("dot_general", "conv_general_dilated")
_REDUCTIONS = (
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin",
)  # fmt: skip
_PASSES = (
    "gather", "scatter", "scatter-add", "sort", "top_k", "dynamic_update_slice", "cumsum", "cumprod",
    "cummax", "cummin", "cumlogsumexp", "reduce_window_sum", "reduce_window_max", "select_and_scatter_add",
)  # fmt: skip
_SAME_ARRAY = ("reshape", "squeeze", "expand_dims", "copy", "stop_gradient")
_INLINED = ("jit", "closed_call", "remat2", "checkpoint", "custom_vjp_call", "custom_jvp_call")
_FUSED_WITH_SEVERAL_RESULTS = ("split", "unstack", "optimization_barrier", "rng_bit_generator")


@dataclasses.dataclass(frozen=True)
class Work:
    """What a program computes and moves.

    Attributes:
        flops: of matrix products and convolutions.
        bytes: to and from memory.

    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times)


def of(function: Callable, *inputs: Any) -> Work:
    """Counts one call of `function` with inputs of these shapes.

    Args:
        function: traceable.
        inputs: pytrees of arrays or ShapeDtypeStructs.

    Raises:
        UserError: for a loop of unknown length, or a kernel whose work only its author knows.

    """
    closed = jax.make_jaxpr(function)(*inputs)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    counter = _Counter()
    results = counter.run(jaxpr, [_stored(var.aval) for var in jaxpr.invars])
    counter.write(results)
    return counter.total


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
    """An array in memory, of so many bytes."""

    size: float


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array of the program.

    Attributes:
        size: bytes.
        parts: the arrays in memory that it is made of.
        in_memory: it is one of these itself.

    """

    size: float
    parts: frozenset[_Stored]
    in_memory: bool = False

    @property
    def read(self) -> float:
        """Bytes that a kernel reads to have it."""
        return min(self.size, sum(part.size for part in self.parts))


def _size(aval: Any) -> float:
    """Returns the bytes of an array; a key of random numbers counts as none."""
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 0.0
    return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize


def _stored(aval: Any) -> _Value:
    size = _size(aval)
    return _Value(size, frozenset([_Stored(size)]), in_memory=True)


class _Counter:
    """Goes through a program and adds up its work."""

    def __init__(self) -> None:
        self.total = Work()
        self._reduced: set[tuple[frozenset[_Stored], float]] = set()

    def run(self, jaxpr: Any, inputs: Sequence[_Value]) -> list[_Value]:
        """Counts the equations; returns the results."""
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {var: _stored(var.aval) for var in jaxpr.constvars}

        def value(atom: Any) -> _Value:
            return _Value(_size(atom.aval), frozenset()) if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            values.update(zip(eqn.outvars, self._equation(eqn, list(map(value, eqn.invars))), strict=True))
        return list(map(value, jaxpr.outvars))

    def write(self, results: Iterable[_Value]) -> None:
        """Counts the pass that computes what is not in memory yet."""
        new = [result for result in results if not result.in_memory]
        parts: frozenset[_Stored] = frozenset().union(*(result.parts for result in new))
        self.total += Work(bytes=sum(part.size for part in parts) + sum(result.size for result in new))

    def _equation(self, eqn: Any, operands: list[_Value]) -> list[_Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in (*_PRODUCTS, *_REDUCTIONS, *_PASSES):
            return self._kernel(eqn, operands)
        if name == "scan":
            return self._loop(eqn, operands)
        if name == "cond":
            return self._alternatives(eqn, operands)
        inside = list(_programs(params))
        if name in _INLINED and inside:
            return self.run(inside[0], operands)
        if name == "while":
            raise UserError(
                "The step has a loop whose length is not known before it runs: it has no roofline."
            )
        if inside or (eqn.primitive.multiple_results and name not in _FUSED_WITH_SEVERAL_RESULTS):
            raise UserError(
                f"The step has the primitive {name!r}, whose work is not known: it has no roofline."
            )
        if name in _SAME_ARRAY:
            return operands[:1]
        parts: frozenset[_Stored] = frozenset().union(*(operand.parts for operand in operands))
        return [_Value(_size(var.aval), parts) for var in eqn.outvars]

    def _kernel(self, eqn: Any, operands: list[_Value]) -> list[_Value]:
        name, results = eqn.primitive.name, [_stored(var.aval) for var in eqn.outvars]
        written, read = sum(result.size for result in results), sum(operand.read for operand in operands)
        if name == "gather":
            read = min(operands[0].read, written) + operands[1].read
        if name in _REDUCTIONS:
            seen = operands[0].parts, operands[0].size
            read = 0.0 if seen in self._reduced else read
            self._reduced.add(seen)
        self.total += Work(_flops(eqn), read + written)
        return results

    def _loop(self, eqn: Any, operands: list[_Value]) -> list[_Value]:
        """Counts a turn as often as it runs; what it hands on, or stacks, lies in memory."""
        params, inside = eqn.params, eqn.params["jaxpr"]
        consts = operands[: params["num_consts"]]
        one_turn = _Counter()
        rest = [_stored(var.aval) for var in inside.jaxpr.invars[len(consts) :]]
        one_turn.write(one_turn.run(inside.jaxpr, [*consts, *rest]))
        self.total += one_turn.total * params["length"]
        return [_stored(var.aval) for var in eqn.outvars]

    def _alternatives(self, eqn: Any, operands: list[_Value]) -> list[_Value]:
        """Counts the branch that computes most, or moves most of those that compute as much."""
        counters = [_Counter() for _ in eqn.params["branches"]]
        results = [
            counter.run(branch.jaxpr, operands[1:])
            for counter, branch in zip(counters, eqn.params["branches"])
        ]
        most = max(range(len(counters)), key=lambda i: dataclasses.astuple(counters[i].total))
        self.total += counters[most].total
        return results[most]


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the programs within an equation."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _flops(eqn: Any) -> float:
    """Returns two for each product that a result adds up; 0 of a kernel that has none."""
    params, shapes = eqn.params, [var.aval.shape for var in eqn.invars]
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        products = math.prod(shapes[0][axis] for axis in contracted)
    elif eqn.primitive.name == "conv_general_dilated":
        _, channels, *window = params["dimension_numbers"].rhs_spec
        taps = math.prod(shapes[1][axis] for axis in (channels, *window))
        products = taps / math.prod(params["lhs_dilation"])
    else:
        return 0.0
    return 2.0 * products * math.prod(eqn.outvars[0].aval.shape)
