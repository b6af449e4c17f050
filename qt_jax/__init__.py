"""qt_jax: offline reinforcement learning of robot policies with Q-Transformer, in JAX.

    policy = qt_jax.load_policy("runs/quickstart/q_transformer")
    seen = {"observation/front": image, "observation/state": state, "prompt": "close the drawer"}
    action = policy.infer(seen)["actions"][0]

`load_policy`, `open_dataset`, `train` and `evaluate` are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qt_jax.front_door import evaluate, load_policy, open_dataset, train

__version__ = "1.0.0"
__all__ = ["evaluate", "load_policy", "open_dataset", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("qt_jax.front_door"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
