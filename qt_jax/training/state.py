"""Train state and the train step: one jitted function of (state, batch)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qt_jax import agents, losses
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import parameter_path
from qt_jax.models.pretrained import in_encoder, is_new
from qt_jax.models.watched import Watched
from qt_jax.segment import Segment
from qt_jax.training import traced
from qt_jax.training.augment import augment

DECAYED = ("kernel", "head")
"""Names of the parameters that multiply activations; biases, norms, positions and embeddings are not decayed.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes."""

    step: jax.Array
    """int32 []."""
    params: dict
    target_params: dict
    """{} for agents without a target network."""
    opt_state: Any
    """Of optax."""
    settings: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    """The config's `traced.values`, which the step reads in place of the config; no checkpoint has them."""

    def beside_params(self) -> dict[str, Any]:
        """Returns what a checkpoint holds beside the parameters, by field."""
        return {name: getattr(self, name) for name in ("step", "target_params", "opt_state")}


def learning_rate(config: Any, step: jax.Array | int) -> jax.Array:
    """Computes the learning rate of the update after `step` others.

    It warms up linearly, then follows a cosine to its final share at `config.train.steps`, where it stays.
    """
    settings, steps = config.optimizer, config.train.steps
    warmup = jnp.minimum(settings.warmup_steps, steps - 1)
    passed = jnp.clip((step - warmup) / (steps - warmup), 0.0, 1.0)
    share = settings.final_learning_rate
    falling = share + (1.0 - share) * 0.5 * (1.0 + jnp.cos(jnp.pi * passed))
    return settings.learning_rate * jnp.where(step < warmup, step / jnp.maximum(warmup, 1), falling)


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Makes AdamW at `learning_rate`, with each network's gradient clipped by its global norm.

    Only matrices have weight decay (`DECAYED`). An image encoder has a learning rate of its own, or none at
    all if it is frozen, and then no moments either.
    """
    settings, schedule = config.optimizer, functools.partial(learning_rate, config)

    def decayed(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)

    def slower(path, update):
        name = parameter_path(path)
        own = in_encoder(name) and not is_new(name)
        return update * settings.encoder_learning_rate if own else update

    optimizer = optax.chain(
        _clipped(settings.clip_norm, config.model.networks),
        optax.adamw(schedule, weight_decay=settings.weight_decay, mask=decayed),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(slower, updates)),
    )
    return optax.masked(optimizer, _trained) if config.model.frozen_encoder else optimizer


def begun_anew(opt_state: Any) -> Any:
    """Returns an optimiser's state whose learning rate begins anew; its moments stay."""

    def begun(part: Any) -> Any:
        return part._replace(count=part.count * 0) if is_schedule(part) else part

    def is_schedule(part: Any) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    return jax.tree.map(begun, opt_state, is_leaf=is_schedule)


def _trained(params: dict) -> Any:
    """Returns which parameters are trained beside a frozen encoder."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not in_encoder(parameter_path(path)), params)


def _clipped(norm: jax.Array | float, networks: int) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(norm)

    def of_network(gradient):
        return clip.update(gradient, clip.init(gradient))[0]

    return clip if networks == 1 else optax.stateless(lambda gradients, _: jax.vmap(of_network)(gradients))


def init_state(config: Any, ensemble: Ensemble) -> TrainState:
    """Makes the train state of step 0; the same seed gives the same bits."""
    params = ensemble.init(jax.random.key(config.seed))
    has_targets = agents.get(config.agent.name).targets is not None
    target = jax.tree.map(jnp.copy, params) if has_targets else {}
    moments = make_optimizer(config).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, target, moments, traced.values(config))


def train_step(
    config: Any, ensemble: Ensemble, state: TrainState, batch: Segment
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one gradient step. Returns the new state and the metrics, of several networks their means.

    The randomness of step k is fold_in(seed, k), so a resumed run repeats it. With
    `config.train.accumulation` > 1 the batch passes in that many parts. Sums and counts are added and divided
    once, so the step is that of the whole batch, but for the dropout masks.
    """
    agent, config = agents.get(config.agent.name), traced.With(config, state.settings)
    dropout_key, augment_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
    batch = augment(batch, augment_key, config.data.augment)

    def loss_fn(params, key, part, targets):
        watched = Watched.of(ensemble.network, params) if ensemble.config.entropy_target else None
        key = key if config.model.dropout else None
        sums = agent.loss(config, watched or ensemble.network, params, targets, part, key)
        if watched is None:
            return sums["loss"][0], sums
        # A sum, divided by the loss's count as the loss is: so parts and devices add up.
        loss, reported = watched.control()
        return sums["loss"][0] + loss, sums | reported

    def gradient(part_and_key):
        part, key = part_and_key
        part = ensemble.seen(state.params, part)
        targets = targets_of(config, ensemble, state, part)

        def of_network(params, key):
            return jax.grad(loss_fn, has_aux=True)(params, key, part, targets)

        return ensemble.each(of_network, state.params, ensemble.keys(key))

    parts = config.train.accumulation
    if parts == 1:
        grads, sums = gradient((batch, dropout_key))
    else:
        # Every device keeps its rows: part k takes each device's k-th share of them.
        split = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
        )
        inputs = (split, jax.random.split(dropout_key, parts))
        shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], inputs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total, part):
            return (jax.tree.map(jnp.add, total, gradient(part)), None)

        (grads, sums), _ = jax.lax.scan(add, zeros, inputs)

    def mean(grads, count):
        return jax.tree.map(lambda g: g / jnp.maximum(count, 1), grads)

    grads = ensemble.each(mean, grads, sums["loss"][1])

    updates, opt_state = make_optimizer(config).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    target = (
        optax.incremental_update(params, state.target_params, config.agent.target_rate)
        if agent.targets is not None
        else {}
    )
    metrics = {
        **{name: jnp.mean(losses.mean(total)) for name, total in sums.items()},
        "grad_norm": jnp.mean(ensemble.each(optax.global_norm, grads)),
        "param_norm": jnp.mean(ensemble.each(optax.global_norm, params)),
        "transitions": jnp.sum(batch.trainable),
    }
    return TrainState(state.step + 1, params, target, opt_state, state.settings), metrics


def targets_of(config: Any, ensemble: Ensemble, state: TrainState, batch: Segment) -> Any:
    """Computes what the target networks say of a batch; None for agents without them."""
    targets = agents.get(config.agent.name).targets
    return None if targets is None else targets(config, ensemble, state.target_params, batch)
