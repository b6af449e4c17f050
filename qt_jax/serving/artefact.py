"""The policy artefact: a folder from which a robot acts with jax, numpy, safetensors and flatbuffers alone.

policy.json         what the policy is: specs, statistics, provenance, programs, checksums of every other file (`SCHEMA`)
params.safetensors  the parameters
programs/*.bin      `encode` and `decode` of serving/policy.py as StableHLO (jax.export), for cpu, cuda and tpu at once
onnx/               the same as ONNX, where `python -m qt_jax onnx` added it (export/onnx.py)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import safetensors.numpy
from jax import export

from qt_jax.errors import UserError
from qt_jax.serving.folder import Folder
from qt_jax.serving.policy import Policy
from qt_jax.specs import PolicySpec, to_json
from qt_jax.statistics import Statistics

PARAMS = "params.safetensors"
PROGRAMS = ("encode", "decode")


class Artefact(Folder):
    """An opened folder, with the programs that run on jax."""

    @property
    def batches(self) -> tuple[int, ...]:
        """Compiled batch sizes, or () where the programs take any."""
        return tuple(self.about["batches"])

    def training(self) -> dict[str, Any]:
        """What a server tells of the training: agent, episodes, step, and success in the data."""
        origin = self.about["provenance"]
        config = origin["config"]
        return {"agent": config["agent"]["name"], "episodes": config["data"]["episodes"], "step": origin["step"], "data": origin["data"]}

    def policy(self, slots: int = 1, buckets: Sequence[int] = ()) -> Policy:
        """The policy of up to `slots` episodes at once; see `Policy` for `buckets` (default: the artefact's batch sizes, if it has some).

        Raises:
            UserError: if a bucket is not among the artefact's batch sizes, or this jax cannot read its programs.
        """
        buckets = tuple(buckets) or self.batches
        missing = [b for b in buckets if self.batches and b not in self.batches]
        if missing:
            raise UserError(f"{self.path} holds programs for batches of {list(self.batches)}, not {missing}; export with these.")
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


def load(path: str) -> Artefact:
    """Opens an artefact; every file is compared with its checksum. Raises: see `Folder.open`."""
    return Artefact.open(path)
