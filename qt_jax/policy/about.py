"""What a policy says of itself: a server's first message on a connection, which its page shows too."""

from __future__ import annotations

import dataclasses
from typing import Any

import qt_jax
from qt_jax.policy.observations import Keys
from qt_jax.specs import PolicySpec


def metadata(spec: PolicySpec, keys: Keys, sessions: int) -> dict[str, Any]:
    """Returns it as plain types.

    Args:
        spec: of the policy.
        keys: what robots call their cameras, state and prompt.
        sessions: how many episodes there may be at once.

    """
    own = spec.interface
    return {
        "server": f"qt_jax {qt_jax.__version__}",
        "observation": keys.describe(own.observation),
        "instruction_embedding": {
            "instead_of": keys.prompt,
            "shape": [own.instruction_dim],
            "text_encoder": spec.text_encoder,
        },
        "action": dataclasses.asdict(own.action),
        "decision": dataclasses.asdict(own.decision),
        "execute": own.execute,
        "score": spec.score_name,
        "decode": str(spec.decoding),
        "candidates": spec.candidates,
        "support": spec.support_name,
        "control_period_s": spec.dt,
        "limits": None if spec.limits is None else dataclasses.asdict(spec.limits),
        "window": spec.window,
        "sessions": sessions,
        "begin_an_episode": "connect anew, or send reset: true with its first observation",
    }
