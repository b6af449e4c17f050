"""What a compiled program sends between devices, read from its HLO text."""

from __future__ import annotations

import collections
import math
import re

_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_KINDS})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|body|to_apply)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r"compare\([^,]*, %?([\w.-]+)\), direction=LT")
_GROUP = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\]|mesh\[([^\]]*)\])")


def collectives(text: str) -> dict[str, float]:
    """{kind: bytes} of one execution, per device: the whole array that the group ends up with (all-gather), reduces (all-reduce,
    reduce-scatter) or exchanges. A loop's body counts as often as it runs.
    """
    lines, entry, current = collections.defaultdict(list), "", ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            entry = current if match[1] else entry
        lines[current].append(line)

    def trips(line: str) -> int:
        """Of a loop: as the compiler notes it, or, where it does not (TPU), the constant that JAX's loops count up to."""
        if noted := _TRIPS.search(line):
            return int(noted[1])
        condition = lines[_CONDITION.search(line)[1]]
        for bound in filter(None, map(_BOUND.search, condition)):
            for constant in condition:
                if match := re.search(rf"%?{re.escape(bound[1])} = .*constant\((\d+)\)", constant):
                    return int(match[1])
        raise ValueError(f"the compiled program has a loop whose length is not to be read: {line.strip()[:200]}")

    def total(name: str) -> collections.Counter:
        counted: collections.Counter = collections.Counter()
        for line in lines[name]:
            if match := _COLLECTIVE.match(line):
                counted[match[2]] += _bytes(match[1], match[2], bool(match[3]), line)
            for called in _CALLED.finditer(line):
                for child in (called[1] or called[2]).replace("%", "").split(","):
                    if child.strip() in lines and (inside := total(child.strip())):
                        times = trips(line) if " while(" in line else 1
                        counted.update({kind: times * size for kind, size in inside.items()})
        return counted

    return dict(total(entry))


def _bytes(result: str, kind: str, started: bool, line: str) -> float:
    """`result` is the type before the operation's name; a start holds operands and results, of which the larger half is meant."""
    sizes = [
        math.prod(map(int, filter(None, shape.split(",")))) * _WIDTHS[dtype]
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        if dtype in _WIDTHS
    ]
    if kind == "collective-permute" and started:
        return sizes[0]
    if kind == "all-gather" and started:
        return sum(sizes) - sum(sizes[: len(sizes) // 2])
    return sum(sizes) * (_group_size(line) if kind == "reduce-scatter" else 1)


def _group_size(line: str) -> int:
    match = _GROUP.search(line)
    if match[1]:
        return len(match[1].split(","))
    if match[3]:
        return int(match[3])
    axes = dict(re.findall(r"'(\w+)'=(\d+)", match[4]))
    named = re.findall(r"'(\w+)'", re.search(r"replica_groups=mesh\[[^\]]*\][^{]*\{([^}]*)\}", line)[1])
    return math.prod(int(axes[name]) for name in named)
