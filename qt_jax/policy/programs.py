"""Compares what an artefact's programs take and give with the policy that policy.json describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qt_jax.errors import UserError
from qt_jax.specs import Interface, PolicySpec

PARTS, CACHE = ("encode", "decode"), "cache."
"""The programs of every policy; the beginning of the names of what is kept of a frame."""
JUDGE = "judge"
"""The program of a policy that ranks candidates."""
DECIDED = ("tokens", "scores", "behaviour")
"""What `decode` gives, the last by policies that have it alone."""
JUDGED = ("q", "support")
"""What `judge` gives."""

Arrays = dict[str, tuple[str, tuple[int, ...]]]
"""{name: (dtype, shape of a row)}."""
ANY = -1
"""In a shape: any number of candidates."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What the program in `file` takes and gives."""

    file: Path
    takes: Arrays
    gives: Arrays


def image_name(camera: str) -> str:
    """Returns the name of a camera's input of `encode`."""
    return f"images.{camera}"


def parts(spec: PolicySpec) -> tuple[str, ...]:
    """Returns the programs of this policy."""
    return (*PARTS, JUDGE) if spec.candidates else PARTS


def check(
    spec: PolicySpec,
    network: Interface,
    encode: Program,
    decode: Program,
    judge: Program | None = None,
    count: int = ANY,
) -> None:
    """Raises a UserError naming the program that is not of this spec, and its array.

    `judge` is there where the policy ranks candidates; `count` is how many of them its program takes.
    """
    own, seen = spec.interface, spec.interface.observation
    inputs: Arrays = {image_name(camera): ("uint8", (*seen.image_size, 3)) for camera in seen.cameras}
    inputs["state"] = "float32", (seen.state_dim,)
    inputs["instruction"] = "float32", (own.instruction_dim,)
    if spec.timesteps:
        inputs["step"] = "int32", ()
    compare(encode.file, "takes", encode.takes, inputs)

    kept = {name: (dtype, (spec.window, *shape)) for name, (dtype, shape) in encode.gives.items()}
    done: Arrays = {
        "mask": ("bool", (spec.window,)),
        "executed": ("int32", (spec.window, own.decision.dims)),
    }
    dims, bins = network.decision.dims, network.decision.max_bins
    if judge is not None:
        proposed: Arrays = {"candidates": ("int32", (count, own.decision.dims))}
        compare(judge.file, "takes", judge.takes, kept | done | proposed)
        compare(judge.file, "gives", judge.gives, dict.fromkeys(JUDGED, ("float32", (count, dims))))
    if spec.decoding.draws:
        done["uniforms"] = "float32", (spec.decoding.count, own.decision.dims)
    compare(decode.file, "takes", decode.takes, kept | done)

    of_bins = "float32", (dims, bins)
    decided: Arrays = {"tokens": ("int32", (dims,))} | dict.fromkeys(decided_by(spec)[1:], of_bins)
    compare(decode.file, "gives", decode.gives, decided)


def decided_by(spec: PolicySpec) -> tuple[str, ...]:
    """Returns what the `decode` of this policy gives."""
    return DECIDED if spec.behaviour else DECIDED[:-1]


def compare(file: Path, does: str, found: Arrays, expected: Arrays) -> None:
    """Raises a UserError naming the first array that `file` takes, gives or holds otherwise than expected."""
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{file} {does} {_shown(name, found)}, the rest of the policy says {_shown(name, expected)}: "
                "they are of two exports. Copy the whole folder of one, or export again."
            )


def _shown(name: str, arrays: Arrays) -> str:
    if name not in arrays:
        return f"no {name}"
    dtype, shape = arrays[name]
    return f"{name} {dtype}{list(shape)}"
