"""The policy server and its client: websocket, batching, access, page, recording. Imports no learner."""

from qt_jax.serving.ranking import Ranked, ranked

__all__ = ["Ranked", "ranked"]
