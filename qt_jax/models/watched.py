"""A network that notes how spread its attention is while an agent's loss runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from qt_jax.errors import UserError
from qt_jax.losses import Sum
from qt_jax.models import entropy
from qt_jax.models.network import Network
from qt_jax.segment import Segment


@dataclasses.dataclass(frozen=True)
class Watched(Network):
    """A network that notes the attention entropies of each `score` with the `online` parameters.

    Those of the target network, and of parameters that an agent changed, are not noted. An agent that scores
    twice, with dropout and without, has the mean of both.
    """

    online: dict
    noted: list[tuple[jax.Array, jax.Array]]

    @classmethod
    def of(cls, network: Network, online: dict) -> Watched:
        """Returns the network, watched where it has the parameters `online`, this very object."""
        fields = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
        return cls(**fields, online=online, noted=[])

    def score(self, params: dict, segment: Segment, dropout_key: jax.Array | None = None) -> jax.Array:
        """See `Network.score`."""
        if params is not self.online:
            return super().score(params, segment, dropout_key)
        logits, entropies = self.score_watched(params, segment, dropout_key)
        self.noted.append(entropies)
        return logits

    def _of_a_pass(self) -> tuple[Any, Any]:
        """Returns the sums [E] and their count [] of a pass."""
        totals, counts = zip(*self.noted)
        return sum(totals) / len(totals), sum(counts) / len(counts)

    def entropies(self) -> dict[str, Sum]:
        """Returns {"attention_entropy/NAME": (sum, count)} by `entropy.names`; {} if nothing was noted."""
        if not self.noted:
            return {}
        totals, count = self._of_a_pass()
        named = zip(entropy.names(self.config.layers), totals, strict=True)
        return {f"attention_entropy/{name}": (total, count) for name, total in named}

    def control(self) -> tuple[jax.Array, dict[str, Sum]]:
        """Returns the loss of `entropy.control` as a sum, and what is reported of it with the entropies.

        Raises:
            UserError: if nothing was noted.

        """
        if not self.noted:
            raise UserError(
                "config.model.entropy_target needs an agent whose loss calls network.score with the "
                "parameters that it was given; set it to 0, or change the agent."
            )
        totals, count = self._of_a_pass()
        parameters = self.online["transformer"]["entropy_weight"]
        loss, weights = entropy.control(parameters, totals, count, self.config.entropy_target)
        named = zip(entropy.names(self.config.layers), weights, strict=True)
        reported = {f"entropy_weight/{name}": (weight, 1.0) for name, weight in named}
        return loss, {"entropy_loss": (loss, count), **reported, **self.entropies()}
