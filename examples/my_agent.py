"""An agent of your own in one file: behaviour cloning, weighted by the return that followed an action.

    python -m qt_jax train    --config=examples/my_agent.py
    python -m qt_jax evaluate --config=examples/my_agent.py

`qt_jax.agents.Agent` lists what an agent has. Meshes, checkpoints, artefacts and the server work with it.
"""

import jax
import jax.numpy as jnp
import ml_collections

from experiments import quickstart
from qt_jax import losses
from qt_jax.agents import bc


class ReturnWeighted:
    SCORE_NAME = "log-probability"
    ADDITIVE = True
    RETURN_CONDITIONED = False
    targets = action_values = None
    outputs, scores, candidates = map(staticmethod, (bc.outputs, bc.scores, bc.candidates))

    def get_config(self) -> ml_collections.ConfigDict:
        config = ml_collections.ConfigDict()
        config.name = "examples.my_agent:agent"  # this file, as Python finds it from where you start
        config.temperature = 0.5  # of the weights exp(return / temperature)
        return config

    def check(self, config, require) -> None:
        require(config.agent.temperature > 0, "agent.temperature", "a positive number")

    def loss(self, config, network, params, targets, segment, dropout_key) -> dict[str, losses.Sum]:
        """Computes sums over trainable steps and present dims, [B, S, D], each with its count."""
        bin_mask = segment.bin_mask(network.interface.action.max_bins)[:, None]
        logits = network.score(params, segment, dropout_key)[..., 0]
        log_prob = losses.taken(bc.log_probabilities(bin_mask, logits), segment.tokens)
        weight = jax.lax.stop_gradient(jnp.exp((segment.mc_return - 1.0) / config.agent.temperature))
        mask = bc.imitable(segment)
        return {
            "loss": losses.masked_sum(-weight[..., None] * log_prob, mask),
            "weight": losses.masked_sum(weight[..., None], mask),
        }


agent = ReturnWeighted()


def get_config() -> ml_collections.ConfigDict:
    config = quickstart.get_config("bc")
    config.agent = agent.get_config()
    config.data.episodes = "all"
    config.workdir = "runs/quickstart/my_agent"
    return config
