"""A training checkpoint as a policy of the serving runtime."""

from __future__ import annotations

from typing import Any

import jax

from qt_jax import agents
from qt_jax.models.q_transformer import Network
from qt_jax.serving.policy import Policy
from qt_jax.specs import PolicySpec
from qt_jax.training import checkpoints


def load(workdir: str, slots: int, step: int = 0) -> tuple[Policy, checkpoints.Assets, int]:
    """A checkpoint below `workdir` (step 0: the latest) for `slots` parallel episodes; also its assets and step."""
    params, assets, step = checkpoints.load_params(workdir, step=step)
    return build(params, assets, slots), assets, step


def build(params: dict, assets: checkpoints.Assets, slots: int) -> Policy:
    config: Any = checkpoints.frozen_config(assets.config)
    network = Network.create(config.model, assets.action, assets.observation, assets.instruction_dim)
    agent = agents.get(config.agent.name)

    def decode(params, cache, mask):
        return network.greedy(params, cache, mask, lambda logits, dim: agent.scores(config, assets.action, logits, dim))

    spec = PolicySpec(assets.action, assets.observation, config.model.window, assets.instruction_dim, assets.text_encoder)
    return Policy(spec, assets.statistics, jax.device_put(params), network.encode_frame, decode, slots)
