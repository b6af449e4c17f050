"""Models how long a step's exchanges between devices take.

Within a slice they go round rings, between slices over the data centre's network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from qt_jax.planning.hlo import Collective
from qt_jax.training.chips import Chip

HOP_S = 1e-6
"""Latency from a chip to its neighbour; assumed."""
NETWORK_S = 50e-6
"""Latency from a host to one of another slice; assumed."""
MODEL = (
    "of n chips each sends (n - 1) / n of an array, twice to reduce it for all, over the links along its "
    f"group's axes, and {HOP_S * 1e6:g} us a hop"
)
MODEL_BETWEEN = (
    f"; between slices its part over its share of the host's network, and {NETWORK_S * 1e6:g} us a message"
)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Devices that exchange with each other.

    Attributes:
        chips: how many of them are in each slice.
        slices: how many slices they are in.
        links: the share of a chip's links that lie along the group.
        hops: between its farthest chips of a slice.

    """

    chips: float
    slices: int
    links: float
    hops: int


def seconds(found: Mapping[Collective, int], devices: Sequence[Any], chip: Chip) -> tuple[float, float]:
    """Adds up the time of all exchanges, one after the other, within slices and between slices.

    Each of n devices sends (n - 1) / n of an array to gather or to scatter it, and twice that to reduce it
    for all. An array that crosses slices is first reduced within each, so that a chip sends its own part
    alone. A group along one axis of the torus uses the links of that axis; wrap-around links do not count.

    Args:
        found: how often a step makes each exchange.
        devices: in the program's order; with `coords`, and `slice_index` where there are several slices.
        chip: the peak figures of a device.

    """
    own = [device for device in devices if _slice(device) == _slice(devices[0])]
    within = between = 0.0
    for exchange, times in found.items():
        # A program for several slices numbers the devices of one; the runtime exchanges between slices.
        counted = own if max((max(group) for group in exchange.groups), default=0) < len(own) else devices
        groups = {_group([counted[number] for number in group], own) for group in exchange.groups}
        costs = [_seconds(exchange, group, chip) for group in groups or {_Group(1, exchange.slices, 1.0, 0)}]
        near, far = max(costs, key=sum)
        within, between = within + times * near, between + times * far
    return within, between


def _seconds(exchange: Collective, group: _Group, chip: Chip) -> tuple[float, float]:
    """Models one exchange: seconds within slices, and between them."""
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
    """Measures a group's extent along each axis of the torus; [] where devices have no place in one."""
    places = [getattr(device, "coords", None) for device in devices]
    return [] if None in places else [max(axis) - min(axis) for axis in zip(*places)]


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0)
