"""How far the backups of an agent go."""

from __future__ import annotations

from typing import Any


def steps(config: Any) -> int:
    """Returns the environment steps of a backup: `config.agent.n_step` decisions, each of a whole chunk.

    The reward of a decision is that of all its actions, so no backup ends within one. It is 1 for an agent
    without backups.
    """
    decisions = config.agent.get("n_step")
    return 1 if decisions is None else decisions * config.model.chunk
