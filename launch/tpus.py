"""Knows which TPU slices there are, how many hosts they have and how many devices JAX sees on them."""

from __future__ import annotations

import dataclasses
import math
import re

from qt_jax.errors import UserError

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of TPU.

    Attributes:
        shapes: topologies of its slices; empty: cuboids of three dimensions.
        on_one_host: numbers of chips that one host has; larger slices are on hosts of four.
        cores: devices that JAX sees on a chip.

    """

    shapes: tuple[str, ...] = ()
    on_one_host: tuple[int, ...] = (4,)
    cores: int = 1


KINDS = {
    "tpu-v3-device": Kind(("2x2",), cores=2),
    "tpu-v3-slice": Kind(("4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"), cores=2),
    "tpu-v4-podslice": Kind(),
    "tpu-v5-lite-device": Kind(("1x1", "2x2", "2x4"), (1, 4, 8)),
    "tpu-v5-lite-podslice": Kind(_FLAT, (1, 4, 8)),
    "tpu-v5p-slice": Kind(),
    "tpu-v6e-slice": Kind(_FLAT, (1, 4, 8)),
    "tpu7x": Kind(cores=2),
}
"""By the label cloud.google.com/gke-tpu-accelerator. Source: GKE's page "Plan TPUs in GKE"."""


def check(accelerator: str, topology: str, hosts: int, chips: int) -> None:
    """Checks that there is a slice of this topology with so many hosts of so many chips each.

    Raises:
        UserError: if there is none.

    """
    if accelerator not in KINDS:
        given = f"--accelerator={accelerator} with --topology={topology}"
        raise UserError(f"{given}: expected one of {', '.join(KINDS)}.")

    kind = KINDS[accelerator]
    if not (topology in kind.shapes if kind.shapes else _is_cuboid(topology)):
        cuboids = "2x2x1, 2x2x2, 2x2x4, 2x4x4, and multiples of four such as 4x4x8"
        shapes = ", ".join(kind.shapes) if kind.shapes else cuboids
        raise UserError(f"--topology={topology}: slices of {accelerator} are {shapes}.")

    total = math.prod(map(int, topology.split("x")))
    several = total > 4 and not accelerator.endswith("-device")
    fitting = [(1, total)] * (total in kind.on_one_host) + [(total // 4, 4)] * several
    if (hosts, chips) not in fitting:
        expected = " or ".join(f"--hosts={count} --chips={each}" for count, each in fitting)
        has = f"{accelerator} of {topology} has {total} chips"
        raise UserError(f"--hosts={hosts} --chips={chips}: {has}, expected {expected}.")


def _is_cuboid(topology: str) -> bool:
    """Returns whether it is a slice of a three-dimensional torus.

    Such a slice is a part of a cube of 4x4x4, or is made of such cubes, with the longest side last.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", topology):
        return False
    sides = [int(side) for side in topology.split("x")]
    return topology in ("2x2x1", "2x2x2", "2x2x4", "2x4x4") or (
        sides == sorted(sides) and not any(side % 4 for side in sides)
    )


def devices_of_type(accelerator: str) -> int | None:
    """Returns how many devices JAX sees on an accelerator type of Cloud TPU; None if the type is unknown.

    The type counts cores or chips: `v4-16` has 8 devices, `v5litepod-16` has 16.

    Raises:
        UserError: for a number that no slice of that type has.

    """
    match = re.fullmatch(r"(v2|v3|v4|v5p|v5litepod|v6e)-(\d+)", accelerator)
    if match is None:
        return None
    number = int(match[2])
    if match[1] in ("v5litepod", "v6e"):
        sizes = [math.prod(map(int, shape.split("x"))) for shape in _FLAT]
        exists, expected = number in sizes, f"one of {', '.join(map(str, sizes))} chips"
    else:
        exists, expected = number > 0 and number % 8 == 0, "a multiple of 8 cores"
    if not exists:
        raise UserError(f"--accelerator={accelerator}: expected {expected} after {match[1]}-.")

    return number // (2 if match[1] in ("v4", "v5p") else 1)
