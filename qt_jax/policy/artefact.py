"""The policy artefact: a folder from which a robot acts with jax, numpy, safetensors and flatbuffers alone.

policy.json         what the policy is: specs, statistics, provenance, programs (`folder.SCHEMA`)
params.safetensors  the parameters
programs/*.bin      `encode` and `decode` of policy/jax_policy.py as StableHLO (jax.export), for cpu, cuda and
                    tpu at once; and `judge`, of a policy that ranks candidates
onnx/               the same as ONNX, where `python -m qt_jax onnx` added it (export/onnx.py)
SHA256SUMS          the checksum of each of them, written last (policy/checksums.py)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import safetensors.numpy
from jax import export

from qt_jax.errors import UserError
from qt_jax.policy import programs
from qt_jax.policy.folder import INSTRUCTIONS, Folder
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.programs import ANY, CACHE, DECIDED, JUDGE, JUDGED, PARTS, Arrays, Program, image_name
from qt_jax.specs import PolicySpec, to_json
from qt_jax.statistics import Statistics

PARAMS = "params.safetensors"


class Artefact(Folder):
    """An opened folder, with the programs that run on jax."""

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the programs, or () where they take any."""
        return tuple(self.about["batches"])

    def training(self) -> dict[str, Any]:
        """Returns what a server shows of the training: agent, episodes, step, and success in the data."""
        origin = self.about["provenance"]
        config = origin["config"]
        return {
            "agent": config["agent"]["name"],
            "episodes": config["data"]["episodes"],
            "step": origin["step"],
            "data": origin["data"],
        }

    def policy(self, capacity: int = 1, buckets: Sequence[int] = ()) -> Policy:
        """Loads the policy of up to `capacity` episodes at once.

        See `Policy` for `buckets` (default: the artefact's batch sizes, if it has some).

        Raises:
            UserError: if a bucket is not among the artefact's batch sizes, jax has no device of the programs'
                platforms, or the parameters are not theirs.

        """
        buckets = tuple(buckets) or self.batches
        missing = [b for b in buckets if self.batches and b not in self.batches]
        if missing:
            has = f"{self.path} holds programs for batches of {list(self.batches)}"
            raise UserError(f"{has}, not {missing}; export with these.")
        _check_platform(self.path, next(iter(self.exported.values())).platforms)
        params = safetensors.numpy.load_file(self.path / PARAMS)
        held = {name: (str(leaf.dtype), leaf.shape) for name, leaf in params.items()}
        for exported in self.exported.values():
            programs.compare(self.path / PARAMS, "holds", held, _parameters(exported))
        encode, decode, judge = (functools.partial(self._call, part) for part in (*PARTS, JUDGE))
        given = encode, decode, capacity, buckets, judge if self.spec.candidates else None
        return Policy(self.spec, self.statistics, jax.device_put(params), *given)

    @functools.cached_property
    def exported(self) -> dict[tuple[str, int], export.Exported]:
        """The programs by (part, batch size or 0 for any). Raises a UserError if this jax cannot read one."""
        return {(part, batch): self._read(part, batch) for part, batch in self._programs}

    @property
    def _programs(self) -> list[tuple[str, int]]:
        """Each program's part and batch size; of `judge` it is 1, since its candidates are a batch."""
        found = [(part, batch) for batch in self.batches or (0,) for part in PARTS]
        return found + [(JUDGE, 1)] if self.spec.candidates else found

    def check_programs(self) -> None:
        """Raises a UserError for a file that is missing, or a program that is not of this policy.json."""
        files = [program_file(part, batch) for part, batch in self._programs]
        for name in (PARAMS, INSTRUCTIONS, *files):  # which SHA256SUMS, cut short, may lack too
            if not (self.path / name).is_file():
                raise UserError(f"{self.path / name} is missing; copy the whole folder, or export again.")
        judge = self._described(JUDGE, 1) if self.spec.candidates else None
        for batch in self.batches or (0,):
            encode, decode = (self._described(part, batch) for part in PARTS)
            programs.check(self.spec, self.network, encode, decode, judge)

    def _described(self, part: str, batch: int) -> Program:
        file = self.path / program_file(part, batch)
        try:
            return Program(file, *_signature(part, self.exported[part, batch]))
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{file} is no program {part!r}; copy the whole folder again, or export again."
            ) from error

    def _read(self, part: str, batch: int) -> export.Exported:
        path = self.path / program_file(part, batch)
        try:
            return export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # whatever flatbuffers or jax raise
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{path} cannot be read by jax {jax.__version__} ({line}); it was exported by jax "
                f"{self.about['jax']}: export again.",
                topic="other-version",
            ) from error

    def _call(self, part: str, params: Any, *inputs: Any) -> Any:
        batch = jax.tree.leaves(inputs)[-1].shape[0] if self.batches or part == JUDGE else 0
        return self.exported[part, batch].call(params, *inputs)


def _signature(part: str, exported: export.Exported) -> tuple[Arrays, Arrays]:
    """Returns what a program takes beside the parameters, and what it gives."""
    (_, *inputs), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    if part == "encode":
        images, state, instruction, *step = inputs
        takes = {image_name(camera): image for camera, image in images.items()}
        takes |= {"state": state, "instruction": instruction} | dict(zip(("step",), step))
        gives = _numbered(exported.out_avals)
    else:
        window, *others = inputs
        last, found = ("candidates", JUDGED) if part == JUDGE else ("uniforms", DECIDED)
        takes = _numbered(jax.tree.leaves(window)) | dict(zip(("mask", "executed", last), others))
        gives = dict(zip(found, exported.out_avals))
    return _rows(takes), _rows(gives)


def _numbered(cache: Sequence[Any]) -> dict[str, Any]:
    return {f"{CACHE}{number}": leaf for number, leaf in enumerate(cache)}


def _rows(arrays: dict[str, Any]) -> Arrays:
    """Leaves out the first axis, which is the batch's; a number of candidates is a symbol."""
    return {
        name: (str(array.dtype), tuple(n if isinstance(n, int) else ANY for n in array.shape[1:]))
        for name, array in arrays.items()
    }


def _parameters(exported: export.Exported) -> Arrays:
    (params, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return {name: (str(leaf.dtype), leaf.shape) for name, leaf in params.items()}


def _check_platform(folder: Path, platforms: Sequence[str]) -> None:
    try:
        here = export.default_export_platform()
    except RuntimeError as error:  # JAX_PLATFORMS names one that is not here
        raise UserError(
            f"jax finds no device to act on ({' '.join(str(error).split())}); set JAX_PLATFORMS=cpu.",
            topic="device",
        ) from error
    if here not in platforms:
        raise UserError(
            f"{folder} was exported for {', '.join(platforms)}, jax is on {here} here; set JAX_PLATFORMS=cpu."
        )


def program_file(name: str, batch: int) -> str:
    """Returns a program's path below the artefact; batch 0: of any size."""
    return f"programs/{name}.{batch or 'any'}.bin"


def describe(spec: PolicySpec, statistics: Statistics) -> dict[str, Any]:
    """Returns the part of policy.json that `load` makes a policy of."""
    described = to_json(spec)
    if spec.limits is None:  # an older version reads the policy then
        del described["limits"]
    return {"spec": described, "state": statistics.to_json()}


def load(path: str) -> Artefact:
    """Opens an artefact, and compares every file with its checksum and the programs with policy.json.

    Raises:
        UserError: see `Folder.open` and `Artefact.check_programs`.

    """
    opened = Artefact.open(path)
    opened.check_programs()
    return opened
