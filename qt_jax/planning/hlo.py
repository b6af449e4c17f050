"""Reads from a compiled program's HLO text what it sends between devices."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

_WIDTHS = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
"""Bytes of an element."""
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_KINDS})(-start)?\(")
_CONTINUED = re.compile(r'"flag_start":"\d')
"""On TPUs, part of a collective that an earlier fusion started, and that this one goes on with or ends."""
_BETWEEN_SLICES = re.compile(
    r'^\s*(?:ROOT )?%?[\w.-]+ = (.*?) send\(.*_xla_megascale_target="\{([\d,:]+)\}.*_transfer_type="(\w+)"'
)
"""On TPUs, what the runtime sends over the data centre's network."""
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.-]+)")
_BRANCHES = re.compile(
    r"branch_computations=\{([^}]*)\}|true_computation=(\S+), false_computation=(\S+?),?(?:\s|$)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r"compare\([^,]*, %?([\w.-]+)\), direction=LT")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))? ?\{([^}]*)\}"
)
_PARTITIONS = re.compile(r"^HloModule .*num_partitions=(\d+)", re.M)


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        kind: all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute.
        size: bytes of the array that a device ends up with (all-gather), reduces (all-reduce, reduce-scatter)
            or exchanges.
        groups: devices that exchange with each other, by the program's numbers.
        slices: 1, or how many slices exchange, each device with its counterparts (groups is then empty).

    """

    kind: str
    size: float
    groups: tuple[tuple[int, ...], ...]
    slices: int = 1


Counts = collections.Counter[Collective]


def collectives(text: str) -> dict[Collective, int]:
    """Counts how often one execution of a program makes each exchange.

    A loop's body counts as often as it runs. Of alternatives, the one that sends most counts.

    Raises:
        ValueError: for a loop whose length, or groups whose form, cannot be read.

    """
    lines, entry, current = collections.defaultdict(list), "", ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            entry = current if match[1] else entry
        lines[current].append(line)
    partitions = _PARTITIONS.search(text)
    everyone = range(int(partitions[1]) if partitions else 1)

    @functools.cache
    def within(name: str) -> Counts:
        counted: Counts = collections.Counter()
        for line in lines.get(name, ()):
            counted.update(_exchanges(line, fused=name.startswith("all-reduce-scatter"), everyone=everyone))
            for called in _CALLED.findall(line):
                if inside := within(called):
                    times = _trips(line, lines) if " while(" in line else 1
                    counted.update({found: times * count for found, count in inside.items()})
            if branches := _BRANCHES.search(line):
                names = re.findall(r"[\w.-]+", " ".join(filter(None, branches.groups())))
                counted.update(max(map(within, names), key=_sent))
        return counted

    return dict(within(entry))


def _sent(counted: Mapping[Collective, int]) -> float:
    return sum(found.size * times for found, times in counted.items())


def _trips(line: str, lines: dict[str, list[str]]) -> int:
    """Reads how often a loop runs.

    The compiler notes it; where it does not (TPU), it is the constant up to which JAX's loops count.
    """
    if noted := _TRIPS.search(line):
        return int(noted[1])
    name = _CONDITION.search(line)
    condition = lines[name[1]] if name else []
    for bound in filter(None, map(_BOUND.search, condition)):
        for constant in condition:
            if match := re.search(rf"%?{re.escape(bound[1])} = .*constant\((\d+)\)", constant):
                return int(match[1])
    raise ValueError(f"the compiled program has a loop whose length cannot be read: {line.strip()[:200]}")


def _exchanges(line: str, fused: bool, everyone: range) -> Iterator[Collective]:
    """Reads the exchange of a line, if it makes one; `fused`: of an all-reduce each device keeps a part."""
    if match := _BETWEEN_SLICES.match(line):
        kind, slices = match[3].lower().replace("_", "-"), sum(map(_span, match[2].split(",")))
        size = _sizes(match[1])[0] * (slices if kind == "all-gather" else 1)
        yield Collective(kind if kind in _KINDS.split("|") else "collective-permute", size, (), slices)
    elif (match := _COLLECTIVE.match(line)) and not _CONTINUED.search(line):
        groups = _groups(line) or (tuple(everyone),)
        kind = "reduce-scatter" if fused else match[2]
        parts = len(groups[0]) if match[2] == "reduce-scatter" else 1
        yield Collective(kind, parts * _size(match[1], match[2], bool(match[3])), groups)


def _span(text: str) -> int:
    """Counts the numbers in `3` or `0:3`."""
    first, _, last = text.partition(":")
    return int(last or first) - int(first) + 1


def _size(result: str, kind: str, started: bool) -> float:
    """Reads the bytes of a collective's array from `result`, the type before the operation's name.

    The type of a start holds operands and results; of a gather the results count.
    """
    sizes = _sizes(result)
    if kind == "collective-permute" and started:
        return sizes[0]
    if kind == "all-gather" and started:
        return sum(sizes) - sum(sizes[: len(sizes) // 2])
    return sum(sizes)


def _sizes(result: str) -> list[int]:
    return [
        math.prod(map(int, filter(None, shape.split(",")))) * _WIDTHS[dtype]
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        if dtype in _WIDTHS
    ]


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Reads the groups of devices; () is all devices.

    They are listed, given as [groups, size] of a transposed range, or named by axes of a mesh.
    """
    if match := _LISTED.search(line):
        return tuple(tuple(_integers(group)) for group in re.findall(r"\{([\d,]+)\}", match[1]))
    if match := _IOTA.search(line):
        return _rows(_range(match[2], match[3]).reshape(_integers(match[1])))
    if match := _MESH.search(line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        sizes = [int(size) for size in axes.values()]
        order = np.arange(math.prod(sizes))
        if match[2]:
            order = _range(match[2], match[3])
        elif match[4]:
            order = np.asarray(_integers(match[4]))
        if re.search(r"'\w+':\(", match[5]):
            raise ValueError(f"the compiled program groups devices by part of an axis: {match[0]}")
        named = [list(axes).index(name) for name in re.findall(r"'(\w+)'", match[5])]
        grid = np.moveaxis(order.reshape(sizes), named, range(-len(named), 0))
        return _rows(grid.reshape(-1, math.prod(sizes[axis] for axis in named)))
    if "replica_groups={}" in line or "replica_groups" not in line:
        return ()
    raise ValueError(f"the compiled program has groups of devices in an unknown form: {line.strip()[:300]}")


def _range(sizes: str, order: str | None) -> np.ndarray:
    """Returns 0, 1, 2, ... in an array of these sizes with its axes in that order, flat."""
    grid = np.arange(math.prod(_integers(sizes))).reshape(_integers(sizes))
    return (grid.transpose(_integers(order)) if order else grid).reshape(-1)


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _rows(grid: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in grid.tolist())
