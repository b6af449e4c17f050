"""The artefact's folder as any robot opens it, with jax or without: policy.json and the checksums."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qt_jax.errors import UserError, require_format
from qt_jax.policy import checksums
from qt_jax.specs import Interface, PolicySpec
from qt_jax.statistics import Statistics

if TYPE_CHECKING:
    from typing import Self

SCHEMA = 6
POLICY, INSTRUCTIONS = "policy.json", "instructions.safetensors"


@dataclasses.dataclass(frozen=True)
class Folder:
    """An opened folder, its files as they were exported."""

    path: Path
    spec: PolicySpec
    statistics: Statistics
    network: Interface
    """What the network is between; the robot's own, `spec.interface`, is part of it."""
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str) -> Self:
        """Opens an artefact, and compares every file with its checksum and policy.json with itself.

        Raises:
            UserError: if there is none, another version wrote it, a file is missing, unknown, changed or may
                not be read, or policy.json describes no policy.

        """
        folder = Path(path)
        file = folder / POLICY
        try:
            about = json.loads(file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{folder} holds no {POLICY}; give the folder that `python -m qt_jax export` wrote."
            ) from None
        except OSError as error:
            raise checksums.unreadable(file, folder, error) from error
        except ValueError as error:
            raise UserError(
                f"{file} was changed or damaged ({error}); copy the whole folder again, or export again."
            ) from error
        schema = about.get("schema") if isinstance(about, dict) else None
        require_format(f"{folder} is a policy", schema, SCHEMA, "export the policy again")
        checksums.check(folder)
        try:
            return cls(folder, *_described(about), about)
        except UserError as error:
            raise UserError(f"{file}: {error} Export the policy again.") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{file} lacks what a policy needs ({error!r}); export the policy again."
            ) from error

    def embeddings(self) -> dict[str, np.ndarray]:
        """Reads the exported instructions, for robots without a text encoder: {sentence: float32 [E]}.

        Raises:
            UserError: if safetensors is not installed, or the vectors are not those of the sentences.

        """
        if not self.about["instructions"]:
            return {}  # a robot without safetensors sends embeddings
        try:
            import safetensors.numpy
        except ImportError as error:
            raise UserError(
                f"The exported instructions need safetensors ({error}): pip install safetensors",
                topic="missing-package",
            ) from error
        sentences, file = self.about["instructions"], self.path / INSTRUCTIONS
        vectors = safetensors.numpy.load_file(file)["embeddings"]
        if vectors.shape != (expected := (len(sentences), self.spec.interface.instruction_dim)):
            found = list(vectors.shape)
            raise UserError(f"{file} holds {found} numbers, {POLICY} says {list(expected)}; export again.")
        return dict(zip(sentences, vectors))

    def embedder(self) -> Callable[[str], np.ndarray]:
        """Returns what embeds a sentence where there is no text encoder.

        It raises a UserError for a sentence that was not exported.
        """
        known = self.embeddings()

        def embed(sentence: str) -> np.ndarray:
            if sentence not in known:
                exported = f"the {len(known)} exported instructions"
                raise UserError(
                    f"{sentence!r} is not among {exported}; export with --instructions.", topic="sentences"
                )
            return known[sentence]

        return embed


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Writes policy.json, and last the checksums of all files, without which it is no artefact."""
    (folder / checksums.FILE).unlink(missing_ok=True)
    (folder / POLICY).write_text(json.dumps(about, indent=1))
    checksums.write(folder)


def _described(about: dict[str, Any]) -> tuple[PolicySpec, Statistics, Interface]:
    """Reads what policy.json says. Raises a UserError where it does not agree with itself."""
    spec, joint = PolicySpec.from_json(about["spec"]), Interface.from_json(about["network"])
    statistics = Statistics.from_json(about["state"])
    action, network, state_dim = spec.interface.decision, joint.decision, spec.interface.observation.state_dim

    if unknown := sorted(set(action.names) - set(network.names)):
        raise UserError(f"The action has dims {unknown}, the network has {list(network.names)}.")
    if spec.network_dims != (expected := action.dims_in(network)):
        raise UserError(
            f"network_dims are {list(spec.network_dims)}, expected {list(expected)} by the dims' names."
        )
    if any(bins > network.bins[dim] for bins, dim in zip(action.bins, spec.network_dims)):
        raise UserError(
            f"The action has bins {list(action.bins)}, the network {list(network.bins)}: more than it has."
        )
    lengths = {len(values) for values in dataclasses.astuple(statistics)}
    if lengths != {state_dim}:
        raise UserError(f"The state's statistics have lengths {sorted(lengths)}, expected {state_dim}.")
    if not np.isfinite(dataclasses.astuple(statistics)).all():
        raise UserError("The state's statistics hold NaN or Inf.")
    return spec, statistics, joint
