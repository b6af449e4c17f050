"""The policy artefact: a folder from which a robot acts with jax, numpy, safetensors and flatbuffers alone.

policy.json         what the policy is: specs, statistics, provenance, programs, checksums of every other file (`SCHEMA`)
params.safetensors  the parameters
programs/*.bin      `encode` and `decode` of serving/policy.py as StableHLO (jax.export), for cpu, cuda and tpu at once
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax import export

from qt_jax.errors import UserError
from qt_jax.preprocess import Statistics
from qt_jax.serving.policy import Policy
from qt_jax.specs import ActionSpec, ObservationSpec, PolicySpec, to_json

SCHEMA = 1
POLICY, PARAMS, INSTRUCTIONS = "policy.json", "params.safetensors", "instructions.safetensors"
PROGRAMS = ("encode", "decode")


@dataclasses.dataclass(frozen=True)
class Artefact:
    """An opened folder whose files are what policy.json says they are.

    batches: compiled batch sizes, or () where the programs take any.
    """

    path: Path
    spec: PolicySpec
    statistics: Statistics
    batches: tuple[int, ...]
    about: dict[str, Any]

    def embeddings(self) -> dict[str, np.ndarray]:
        """{sentence: float32 [E]} of the instructions that were exported with the policy: for robots without a text encoder."""
        vectors = safetensors.numpy.load_file(self.path / INSTRUCTIONS)["embeddings"]
        return dict(zip(self.about["instructions"], vectors))

    def training(self) -> dict[str, Any]:
        """What a server tells of the training: agent, episodes, step, and success in the data."""
        origin = self.about["provenance"]
        config = origin["config"]
        return {"agent": config["agent"]["name"], "episodes": config["data"]["episodes"], "step": origin["step"], "data": origin["data"]}

    def policy(self, slots: int = 1, buckets: Sequence[int] = ()) -> Policy:
        """The policy of up to `slots` episodes at once; see `Policy` for `buckets`.

        Raises:
            UserError: if a bucket is not among the artefact's batch sizes, or this jax cannot read its programs.
        """
        buckets = tuple(sorted({*(b for b in buckets if b < slots), slots}))
        missing = [b for b in buckets if self.batches and b not in self.batches]
        if missing:
            raise UserError(f"{self.path} holds programs for batches of {list(self.batches)}, not {missing}; serve or export with others.")
        params = jax.device_put(safetensors.numpy.load_file(self.path / PARAMS))
        encode, decode = (functools.partial(self._call, {b: self._program(name, b) for b in self.batches or (0,)}) for name in PROGRAMS)
        return Policy(self.spec, self.statistics, params, encode, decode, slots, buckets)

    def _program(self, name: str, batch: int) -> export.Exported:
        path = self.path / program_file(name, batch)
        try:
            return export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # whatever flatbuffers or jax raise
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{path} cannot be read by jax {jax.__version__} ({line}); it was exported by jax {self.about['jax']}: export again."
            ) from error

    def _call(self, programs: dict[int, export.Exported], params: Any, *inputs: Any) -> Any:
        batch = jax.tree.leaves(inputs)[-1].shape[0]
        return programs[batch if self.batches else 0].call(params, *inputs)


def program_file(name: str, batch: int) -> str:
    """Below the artefact. batch 0: of any size."""
    return f"programs/{name}.{batch or 'any'}.bin"


def describe(spec: PolicySpec, statistics: Statistics) -> dict[str, Any]:
    """The part of policy.json that `load` makes a policy of."""
    return {"spec": to_json(spec), "state": statistics.to_json()}


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: str) -> Artefact:
    """Opens an artefact; every file is compared with its checksum.

    Raises:
        UserError: if there is none, a newer version wrote it, or a file is missing or was changed.
    """
    folder = Path(path)
    try:
        about = json.loads((folder / POLICY).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {POLICY}; give the folder that `python -m qt_jax export` wrote.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / POLICY} cannot be read ({error}); export the policy again.") from error
    if about.get("schema") != SCHEMA:
        raise UserError(f"{folder / POLICY} has schema {about.get('schema')!r}, this version reads {SCHEMA}; export the policy again.")
    for name, expected in about["sha256"].items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing; copy the whole folder, or export the policy again.")
        if (found := checksum(file)) != expected:
            raise UserError(f"{file} has sha256 {found[:16]}..., expected {expected[:16]}...: it was changed or damaged; copy it again.")
    spec = about["spec"] | {
        "action": ActionSpec(**about["spec"]["action"]),
        "observation": ObservationSpec(**about["spec"]["observation"]),
        "slots": tuple(about["spec"]["slots"]),
    }
    return Artefact(folder, PolicySpec(**spec), Statistics.from_json(about["state"]), tuple(about["batches"]), about)
