"""Seconds of exchanges, against numbers worked out by hand."""

import itertools
import types

import pytest

from qt_jax.planning.communication import HOP_S, NETWORK_S, seconds
from qt_jax.planning.hlo import Collective
from qt_jax.training.chips import Chip

CHIP = Chip(flops=1e12, memory=1e9, bandwidth=1e9, interconnect=100.0, network=10.0)
SIZE = 1000.0


def torus(*sides, slices=1):
    """Chips of slices with these sides, in the order of a program."""
    places = list(itertools.product(*map(range, sides)))
    return [
        types.SimpleNamespace(coords=place, slice_index=number)
        for number in range(slices)
        for place in places
    ]


def cost(kind, groups, devices, times=1, slices=1):
    return seconds({Collective(kind, SIZE, groups, slices): times}, devices, CHIP)


@pytest.mark.parametrize("kind, rounds", [("all-gather", 1), ("reduce-scatter", 1), ("all-reduce", 2)])
def test_a_ring_knows_how_many_chips_it_has(kind, rounds):
    """Over 100 bytes/s: 3/4 and 255/256 of 1,000 bytes; hops of a 2x2 and a 16x16 from corner to corner."""
    for side, part, hops in ((2, 3 / 4, 2), (16, 255 / 256, 30)):
        (within, between) = cost(kind, (tuple(range(side**2)),), torus(side, side), times=5)
        assert within == pytest.approx(5 * rounds * (10 * part + hops * HOP_S)) and between == 0


def test_exchanges_among_all_and_to_a_neighbour():
    assert cost("all-to-all", ((0, 1, 2, 3),), torus(2, 2))[0] == pytest.approx(7.5 + 2 * HOP_S)
    assert cost("collective-permute", ((0, 1), (1, 0)), torus(2, 2))[0] == pytest.approx(
        20 + HOP_S
    )  # along one of two axes


def test_a_group_along_one_axis_has_the_links_of_that_axis():
    rows, columns = (
        [tuple(range(i, i + 4)) for i in (0, 4, 8, 12)],
        [tuple(range(i, 16, 4)) for i in range(4)],
    )
    for groups in (rows, columns):
        assert cost("all-gather", tuple(groups), torus(4, 4))[0] == pytest.approx(
            1000 * 3 / 4 / 50 + 3 * HOP_S
        )
    assert cost("all-gather", ((0, 1),), torus(2, 2, 2))[0] == pytest.approx(500 / (100 / 3) + HOP_S)


def test_what_crosses_slices_goes_over_the_network():
    """Two slices of four: reduced within each (3/4 of the array twice), then each quarter between them."""
    devices = torus(2, 2, slices=2)
    within, between = cost("all-reduce", (tuple(range(8)),), devices)
    assert within == pytest.approx(2 * 1000 * 3 / 4 / 100 + 4 * HOP_S)
    assert between == pytest.approx(2 * 250 / 2 / 10 + 2 * NETWORK_S)
    assert cost("all-gather", ((0, 1, 2, 3), (4, 5, 6, 7)), devices)[1] == 0  # an axis that stays within
    within, between = cost("all-gather", ((0, 4), (1, 5), (2, 6), (3, 7)), devices)
    assert within == 0 and between == pytest.approx(500 / 10 + NETWORK_S)
    assert cost("collective-permute", ((0, 4),), devices) == (0, pytest.approx(100 + NETWORK_S))


@pytest.mark.parametrize("slices", [2, 4])
def test_what_the_runtime_exchanges_between_slices(slices):
    """A program of a TPU counts the chips of one slice, and names the slices."""
    devices = torus(2, 2, slices=slices)
    part = (slices - 1) / slices
    assert cost("all-reduce", (), devices, slices=slices) == (
        0,
        pytest.approx(2 * 100 * part + 2 * (slices - 1) * NETWORK_S),
    )
    assert cost("all-gather", ((0, 1, 2, 3),), devices) == cost("all-gather", ((0, 1, 2, 3),), torus(2, 2))


def test_devices_without_a_place_are_a_ring():
    devices = [types.SimpleNamespace() for _ in range(8)]
    assert cost("all-gather", (tuple(range(8)),), devices) == (
        pytest.approx(1000 * 7 / 8 / 100 + 7 * HOP_S),
        0,
    )
