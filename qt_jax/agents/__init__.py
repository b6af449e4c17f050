"""One algorithm a file. A user's own is "module:name" in `config.agent.name`: see examples/my_agent.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import plugins
from qt_jax.agents import awac, bc, cql, critic, decision_transformer, iql, q_transformer
from qt_jax.agents.checks import Require
from qt_jax.errors import UserError
from qt_jax.losses import Sum
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import Network
from qt_jax.segment import Segment
from qt_jax.specs import Interface

Candidates = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(bin_mask [..., N], logits [K, ..., N, A] of one dim) -> log-probabilities, by which a bin is drawn, and Q.

Both are [..., N], the former up to a constant. Bins whose Q is -inf are not drawn. Q of the last dim is that
of the whole action. `judge` gives all dims at once, as one axis more before N."""


class Agent(Protocol):
    """What an algorithm is: a module or an object with these names.

    Letters: K networks, B segments, N bins, A outputs of each bin. `config` is the whole experiment's,
    `config.agent` the agent's own.
    """

    SCORE_NAME: str
    """What its scores are, for reports; "Q" where they are values."""
    ADDITIVE: bool
    """Whether the scores of an action's dims add up to its own, as log-probabilities do."""
    RETURN_CONDITIONED: bool
    """Whether the network sees each episode's return and the earlier actions of the window."""

    def get_config(self) -> ml_collections.ConfigDict:
        """Returns its settings with their defaults, "name" among them: they become `config.agent`.

        Of agents that have them, data and network read `n_step`, `timesteps`, `value_loss` and `value_cells`.
        """

    def check(self, config: Any, require: Require) -> None:
        """Says what each of its settings must be, such as `require(x > 0, "agent.x", "above 0")`."""

    def outputs(self, config: Any) -> int:
        """Returns A, how many outputs it asks of the network's head for each bin."""

    targets: Any
    """(config, ensemble, target_params, segment) -> what the losses of all networks take of the target ones,
    without gradient. These are running averages, of rate `config.agent.target_rate`. None: there are none."""

    def loss(
        self,
        config: Any,
        network: Network,
        params: dict,
        targets: Any,
        segment: Segment,
        dropout_key: jax.Array | None,
    ) -> dict[str, Sum]:
        """Computes {name: (sum, count)}: "loss", whose sum is differentiated, and what else is reported.

        Of one network; each of K learns as it would alone.
        """

    def scores(self, config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
        """Computes what greedy decoding maximises in one dim: the logits [K, ..., N, A] -> [..., N].

        It is -inf at bins that do not exist, where `bin_mask` [..., N] is False.
        """

    def candidates(self, config: Any) -> Candidates | None:
        """Returns what the decoding "rank" draws and ranks actions by; None: it has not both."""

    action_values: Any
    """(config, ensemble, params, segment) -> Q of each step's whole action [B, S]; None: it has no values."""


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


def candidates(config: Any, kind: str = "rank") -> Candidates:
    """Returns what the config's agent draws and, for `kind` "rank", ranks actions by.

    For "sample" the second of the two may be probabilities too, since nothing is ranked.

    Raises:
        UserError: if it has no probabilities, or for "rank" no values.

    """
    agent = get(config.agent.name)
    found = agent.candidates(config)
    if found is None and kind == "sample" and has_probabilities(config):
        return lambda bin_mask, logits: (agent.scores(config, bin_mask, logits),) * 2
    if found is None:
        needs = {"sample": "action probabilities", "rank": "action probabilities and Q in one policy"}[kind]
        raise UserError(
            f"decode is {kind!r}, which needs {needs}; {config.agent.name!r} lacks them. Give 'greedy' "
            "or 'beam:4'; or train q_transformer or cql with config.agent.behaviour_weight above 0, or awac "
            "or iql."
        )
    return found


def has_probabilities(config: Any) -> bool:
    """Returns whether actions can be drawn: by what the config's agent decides by, or by a behaviour head."""
    agent = get(config.agent.name)
    return agent.SCORE_NAME == "log-probability" or agent.candidates(config) is not None


def judge(config: Any) -> Candidates:
    """Returns what judges actions of somebody else by the config's agent.

    The first of the two is the support of a bin: its log-probability by the behaviour head or the policy. Of
    an agent with neither it is how far the bin's Q lies above the least value, as a share of the best bin's.

    Raises:
        UserError: if it has no Q, or sees past actions, which a judge does not know.

    """
    agent, name = get(config.agent.name), config.agent.name
    found = agent.candidates(config)
    without = found is None and agent.SCORE_NAME != "Q"
    if without or agent.RETURN_CONDITIONED:
        lacks = "has no Q" if without else "sees past actions, which a judge does not know"
        raise UserError(
            f"candidates are ranked by Q, and {name!r} {lacks}; train q_transformer, cql, iql or awac, or "
            "leave candidates out."
        )
    if found is not None:
        return found
    q_min = config.value_range[0]

    def of_dim(bin_mask, logits):
        q = agent.scores(config, bin_mask, logits)
        above = jnp.maximum(q - q_min, 0.0)
        best = above.max(axis=-1, keepdims=True)
        return above / jnp.where(best > 0, best, 1.0), q

    return of_dim


def has_behaviour(config: Any) -> bool:
    """Returns whether the config's agent knows, beside the Q of a bin, how often the data took it."""
    agent = get(config.agent.name)
    return agent.SCORE_NAME == "Q" and agent.candidates(config) is not None


def has_values(name: str) -> bool:
    """Returns whether outputs of the agent are returns, which lie in `config.value_range`."""
    return get(name).action_values is not None


def make_ensemble(config: Any, interface: Interface) -> Ensemble:
    """Makes the networks of `config.model` with the head and inputs that the config's agent asks for.

    Raises:
        UserError: for an unknown agent, or a setting of the model without a meaning.

    """
    agent = get(config.agent.name)
    timesteps, cells = config.agent.get("timesteps", 0), critic.cells(config)
    outputs, conditioned = agent.outputs(config), agent.RETURN_CONDITIONED
    return Ensemble(Network.create(config.model, interface, outputs, conditioned, timesteps, cells))
