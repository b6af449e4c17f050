"""Loads an artefact as a policy that a server can serve, at the start and while it serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from qt_jax import text
from qt_jax.errors import UserError
from qt_jax.policy import artefact, checksums
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.policies import Served
from qt_jax.specs import PolicySpec


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads artefacts for one server.

    Attributes:
        capacity: how many episodes there may be at once.
        say: prints a line.

    """

    capacity: int
    say: Callable[[str], None]

    def load(self, path: str, check: Callable[[PolicySpec], None]) -> Served:
        """Opens an artefact and compiles it, so that no robot waits for it; its name is its fingerprint.

        Args:
            path: its folder, or a link to it.
            check: is called before minutes of compilation.

        Raises:
            UserError: what `check` raises; and if the artefact cannot be read, or is written over meanwhile.

        """
        folder = Path(path).resolve()  # a link may point elsewhere soon
        before = checksums.fingerprint(folder)
        opened = artefact.load(str(folder))
        check(opened.spec)
        embeddings = opened.embeddings()
        embed = text.embedder(embeddings, opened.spec.text_encoder)
        buckets = opened.batches or [2**n for n in range(self.capacity.bit_length())]
        policy = opened.policy(self.capacity + 1, buckets)
        if checksums.fingerprint(folder) != before:
            raise UserError(
                f"{path} was written over while it was read; it is tried again when that is done."
            )
        self.say(f"compiling for {len(policy.buckets)} batch sizes {list(policy.buckets)} ...")
        policy.warm_up()
        self._load_encoder(embed, embeddings)
        about = {"artefact": folder.name, "training": opened.training()}
        return Served(Sessions(policy, embed, reserved=1, name=before), about)

    def _load_encoder(self, embed: Callable[[str], np.ndarray], embeddings: Mapping[str, np.ndarray]) -> None:
        """Loads the text encoder before the first robot waits for it; says so where it is not installed."""
        try:
            embed("open the drawer")
        except UserError as error:
            self.say(
                f"no new sentences: {error} Served are the {len(embeddings)} exported instructions, and "
                "embeddings."
            )
