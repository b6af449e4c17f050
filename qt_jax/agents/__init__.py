"""One algorithm a file. A user's own is "module:name" in `config.agent.name`: see examples/my_agent.py."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import ml_collections

from qt_jax import plugins
from qt_jax.agents import awac, bc, cql, decision_transformer, iql, q_transformer
from qt_jax.losses import Sum
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Segment


class Agent(Protocol):
    """What an algorithm is: a module or an object with these names.

    Letters: B segments, N bins, A outputs of each bin. `config` is the whole experiment's, `config.agent` its
    own.
    """

    USES_TARGET: bool
    """Whether the learner keeps a target network, a running average of rate `config.agent.target_rate`."""
    SCORE_NAME: str
    """What its scores are, for reports; "Q" where they are values."""
    ADDITIVE: bool
    """Whether the scores of an action's dims add up to its own, as log-probabilities do."""
    RETURN_CONDITIONED: bool
    """Whether frames are told a return, and actions those before them in the window (Decision Transformer).
    """

    def get_config(self) -> ml_collections.ConfigDict:
        """Returns its settings with their defaults, "name" among them: they become `config.agent`."""

    def outputs(self, config: Any) -> int:
        """Returns A, which `config.model.atoms` must be; 0: the cells of a value histogram, as many as it
        says.
        """

    def loss(
        self,
        config: Any,
        network: Network,
        params: dict,
        target_params: dict,
        segment: Segment,
        dropout_key: jax.Array | None,
    ) -> dict[str, Sum]:
        """Computes {name: (sum, count)}: "loss", whose sum is differentiated, and what is reported beside it."""

    def scores(self, config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
        """Computes what greedy decoding maximises in one dim: logits [..., N, A] -> [..., N], absent bins
        -inf.
        """

    first_step_values: Any
    """(config, network, params, segment) -> values of the first steps' actions [B]; None: it has no values.
    """


AGENTS: dict[str, Agent] = {
    "q_transformer": q_transformer,
    "bc": bc,
    "decision_transformer": decision_transformer,
    "iql": iql,
    "cql": cql,
    "awac": awac,
}
NEEDS = sorted(name for name in {*vars(Agent), *Agent.__annotations__} if not name.startswith("_"))


def get(name: str) -> Agent:
    """Returns the agent of `config.agent.name`.

    Raises:
        UserError: for a name that is neither known nor a user's own.

    """
    return plugins.find("config.agent.name", name, AGENTS, NEEDS)


def has_values(name: str) -> bool:
    """Whether outputs of the agent are returns, which lie in `config.value_range`."""
    return get(name).first_step_values is not None
