"""Train state and the train step: one jitted function of (state, batch)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qt_jax import agents
from qt_jax.models.q_transformer import Network
from qt_jax.specs import Segment
from qt_jax.training.augment import random_shift

DECAYED = ("kernel", "head")
"""Names of the parameters that multiply activations; biases, norms, positions and embeddings are not decayed."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step int32 []; params and target_params nested dicts ({} for agents without a target network); opt_state of optax."""

    step: jax.Array
    params: dict
    target_params: dict
    opt_state: Any


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """AdamW on a warm-up and cosine schedule, gradients clipped by global norm; weight decay on matrices alone (`DECAYED`)."""
    settings = config.optimizer
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        settings.learning_rate,
        min(settings.warmup_steps, config.train.steps - 1),
        config.train.steps,
        settings.learning_rate * settings.final_learning_rate,
    )
    decayed = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=decayed),
    )


def init_state(config: Any, network: Network) -> TrainState:
    params = network.init(jax.random.key(config.seed))
    target = jax.tree.map(jnp.copy, params) if agents.get(config.agent.name).USES_TARGET else {}
    return TrainState(jnp.zeros((), jnp.int32), params, target, make_optimizer(config).init(params))


def train_step(config: Any, network: Network, state: TrainState, batch: Segment) -> tuple[TrainState, dict[str, jax.Array]]:
    """One gradient step. The randomness of step k is fold_in(seed, k), so a resumed run repeats it."""
    agent = agents.get(config.agent.name)
    dropout_key, shift_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    if config.data.random_shift:
        batch = random_shift(batch, shift_key, config.data.random_shift)

    def loss_fn(params):
        return agent.loss(config, network, params, state.target_params, batch, dropout_key if config.model.dropout else None)

    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = make_optimizer(config).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    target = optax.incremental_update(params, state.target_params, config.agent.target_rate) if agent.USES_TARGET else {}
    metrics = {
        "loss": loss,
        **metrics,
        "grad_norm": optax.global_norm(grads),
        "param_norm": optax.global_norm(params),
        "transitions": jnp.sum(batch.trainable),
    }
    return TrainState(state.step + 1, params, target, opt_state), metrics


def validation_step(config: Any, network: Network, state: TrainState, batch: Segment) -> dict[str, jax.Array]:
    """The agent's loss and metrics without an update; first-step values and success of each segment where the agent has values."""
    agent = agents.get(config.agent.name)
    loss, metrics = agent.loss(config, network, state.params, state.target_params, batch, None)
    outputs = {"loss": loss, **metrics, "transitions": jnp.sum(batch.trainable)}
    if agent.first_step_values is not None:
        outputs["first_step_values"] = agent.first_step_values(config, network, state.params, batch)
    return outputs
