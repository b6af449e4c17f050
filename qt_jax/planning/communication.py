"""How long a step's exchanges may take, modelled: rings within a slice, the data centre's network between
slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from qt_jax.planning.hlo import Collective
from qt_jax.training.chips import Chip

HOP_S = 1e-6
"""From a chip to its neighbour; assumed."""
NETWORK_S = 50e-6
"""From a host to one of another slice; assumed."""
MODEL = (
    "of n chips each sends (n - 1) / n of an array, twice to reduce it for all, over the links along its "
    f"group's axes, and {HOP_S * 1e6:g} us a hop"
)
MODEL_BETWEEN = (
    f"; between slices its part over its share of the host's network, and {NETWORK_S * 1e6:g} us a message"
)


@dataclasses.dataclass(frozen=True)
class _Group:
    """chips: of it in each slice. slices: that it is in. links: share of a chip's links that lie along it.
    hops: between its farthest chips of a slice.
    """

    chips: float
    slices: int
    links: float
    hops: int


def seconds(found: Mapping[Collective, int], devices: Sequence[Any], chip: Chip) -> tuple[float, float]:
    """Of all of them one after the other, within slices and between slices.

    Of n devices each sends (n - 1) / n of the array to gather or to scatter it, and both to reduce it for
    all. What crosses slices is first reduced within each, so that a chip sends its own part of the array
    alone. A group along one axis of the torus uses the links of that axis alone; wrap-around links are not
    counted on.

    Args:
        found: how often a step makes each exchange.
        devices: in the program's order; with `coords`, and `slice_index` where there are several slices.

    """
    own = [device for device in devices if _slice(device) == _slice(devices[0])]
    within = between = 0.0
    for exchange, times in found.items():
        # A program for several slices counts the devices of one slice, and leaves what lies between to the
        # runtime.
        counted = own if max((max(group) for group in exchange.groups), default=0) < len(own) else devices
        groups = {_group([counted[number] for number in group], own) for group in exchange.groups}
        costs = [_seconds(exchange, group, chip) for group in groups or {_Group(1, exchange.slices, 1.0, 0)}]
        near, far = max(costs, key=sum)
        within, between = within + times * near, between + times * far
    return within, between


def _seconds(exchange: Collective, group: _Group, chip: Chip) -> tuple[float, float]:
    chips, slices = group.chips, group.slices
    rounds = 2 if exchange.kind == "all-reduce" else 1
    if exchange.kind == "collective-permute":
        near, far = (exchange.size, 0.0) if slices == 1 else (0.0, exchange.size)
    elif exchange.kind == "all-to-all":
        near, far = exchange.size * (chips - 1) / (chips * slices), exchange.size * (slices - 1) / slices
    else:
        near = rounds * exchange.size * (chips - 1) / chips
        far = rounds * exchange.size / chips * (slices - 1) / slices
    return (
        near / (chip.interconnect * group.links) + rounds * group.hops * HOP_S,
        far / chip.network + rounds * (slices - 1) * NETWORK_S,
    )


def _group(members: Sequence[Any], own: Sequence[Any]) -> _Group:
    slices = len({_slice(device) for device in members})
    near = [device for device in members if _slice(device) == _slice(members[0])]
    extents, all_extents = _extents(near), _extents(own)
    along = sum(extent > 0 for extent in extents) / max(1, sum(extent > 0 for extent in all_extents))
    return _Group(len(members) / slices, slices, along or 1.0, sum(extents) if all_extents else len(near) - 1)


def _extents(devices: Sequence[Any]) -> list[int]:
    """Along each axis of the torus; none where devices have no place in one."""
    places = [getattr(device, "coords", None) for device in devices]
    return [] if None in places else [max(axis) - min(axis) for axis in zip(*places)]


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0)
