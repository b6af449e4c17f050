"""The artefact's folder as any robot opens it, with jax or without: policy.json, and what it says of the other files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec, PolicySpec
from qt_jax.statistics import Statistics

SCHEMA = 2
POLICY, INSTRUCTIONS = "policy.json", "instructions.safetensors"


@dataclasses.dataclass(frozen=True)
class Folder:
    """An opened folder whose files are what policy.json (`about`) says they are."""

    path: Path
    spec: PolicySpec
    statistics: Statistics
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str) -> Self:
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
        schema = about.get("schema") if isinstance(about, dict) else None
        if schema != SCHEMA:
            raise UserError(f"{folder / POLICY} has schema {schema!r}, this version reads {SCHEMA}; export the policy again.")
        try:
            return cls._checked(folder, about)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / POLICY} lacks what a policy needs ({error!r}); export the policy again.") from error

    @classmethod
    def _checked(cls, folder: Path, about: dict[str, Any]) -> Self:
        for name, expected in about["sha256"].items():
            file = folder / name
            if not file.is_file():
                raise UserError(f"{file} is missing; copy the whole folder, or export the policy again.")
            if (found := checksum(file)) != expected:
                raise UserError(
                    f"{file} has sha256 {found[:16]}..., expected {expected[:16]}...: it was changed or damaged; copy it again."
                )
        spec = about["spec"] | {
            "action": ActionSpec(**about["spec"]["action"]),
            "observation": ObservationSpec(**about["spec"]["observation"]),
            "slots": tuple(about["spec"]["slots"]),
        }
        return cls(folder, PolicySpec(**spec), Statistics.from_json(about["state"]), about)

    def embeddings(self) -> dict[str, np.ndarray]:
        """{sentence: float32 [E]} of the instructions that were exported with the policy: for robots without a text encoder."""
        import safetensors.numpy

        vectors = safetensors.numpy.load_file(self.path / INSTRUCTIONS)["embeddings"]
        return dict(zip(self.about["instructions"], vectors))

    def embedder(self) -> Callable[[str], np.ndarray]:
        """What `Sessions` asks where there is no text encoder; it raises a UserError for sentences that were not exported."""
        known = self.embeddings()

        def embed(sentence: str) -> np.ndarray:
            if sentence not in known:
                raise UserError(f"{sentence!r} is not among the {len(known)} exported instructions; export with --instructions.")
            return known[sentence]

        return embed


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
