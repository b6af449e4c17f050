"""One algorithm a file. Each is a module with the same small interface:

get_config() -> ConfigDict             its own settings, `config.agent`
USES_TARGET: bool                      whether the learner keeps a target network
SCORE_NAME: str                        what its scores are, for reports
ADDITIVE: bool                         whether the scores of an action's dims add up to its own, as log-probabilities do
outputs(config) -> int                            what `config.model.atoms` must be; 0: the cells of a value histogram
loss(config, network, params, target_params, segment, dropout_key) -> {name: (sum, count)}
                                                  "loss", whose sum is differentiated, and what is reported beside it
scores(config, bin_mask, logits) -> [..., N]      what greedy decoding maximises in one dim; logits [..., N, atoms], absent bins -inf
first_step_values(config, network, params, segment) -> [B], or None where the algorithm has no value
"""

from __future__ import annotations

from types import ModuleType

from qt_jax.agents import awac, bc, cql, decision_transformer, iql, q_transformer
from qt_jax.errors import UserError

AGENTS: dict[str, ModuleType] = {
    "q_transformer": q_transformer,
    "bc": bc,
    "decision_transformer": decision_transformer,
    "iql": iql,
    "cql": cql,
    "awac": awac,
}


def get(name: str) -> ModuleType:
    if name not in AGENTS:
        raise UserError(f"config.agent.name is {name!r}; expected one of {sorted(AGENTS)}.")
    return AGENTS[name]


def has_values(name: str) -> bool:
    """Whether outputs of the agent are returns, which lie in `config.value_range`."""
    return get(name).first_step_values is not None
