"""What the losses worked out by hand share.

An x of three bins and a gripper of two, of a network whose outputs are its parameters.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from scipy import stats

from qt_jax import losses
from qt_jax.segment import Segment
from qt_jax.specs import ActionSpec, Interface, ObservationSpec

ACTION = ActionSpec(("x", "gripper"), (-1.0, -1.0), (1.0, 1.0), (3, 2))
INTERFACE = Interface(ACTION, ObservationSpec((), (8, 8), 1, ""), 4)
NETWORK = types.SimpleNamespace(interface=INTERFACE, score=lambda params, segment, dropout_key=None: params)


def _all_networks(params, segment):
    return jnp.stack(params if isinstance(params, tuple) else (params,))


ENSEMBLE = types.SimpleNamespace(interface=INTERFACE, score=_all_networks)
"""Of one such network; or of several, whose parameters are a tuple."""

Q = [[0.2, 0.5, 0.1], [0.4, 0.3, 0.9]]  # the gripper's third bin does not exist
Q_TARGET = [[0.6, 0.1, 0.3], [0.5, 0.7, 0.99]]
PROBABILITIES = [[0.2, 0.5, 0.3], [0.25, 0.75, 9.0]]


def logits(*records):
    """Q of the bins of each record [D, N] as one output of the network [1, S, D, N, 1]."""
    return jax.scipy.special.logit(jnp.asarray([records], jnp.float32))[..., None]


def policy(*records):
    return jnp.log(jnp.asarray([records], jnp.float32))[..., None]


CELLS = np.arange(1, 9) / 36
"""A distribution of returns: two cells over the value range and three more at each side."""
EDGES = np.linspace(-1.5, 2.5, 9)


def divergence(y, predicted):
    """Of `predicted` cells from the Gaussian that stands for a target `y`: what the histogram's loss is."""
    p = np.diff(stats.norm.cdf(EDGES, y, 0.75 * 0.5))
    p /= p.sum()
    return np.sum(p * np.log(p / predicted))


def mean_of(cells):
    return cells @ (EDGES[1:] + EDGES[:-1]) / 2


def outputs(*parts):
    return jnp.concatenate(parts, axis=-1)


def segment(rewards=(0.3,), bins=(3, 2), terminal=True):
    """An episode of these rewards, of the actions (1, 0), (2, 1) and (0, 1)."""
    steps = len(rewards)

    def row(*values):
        return jnp.asarray([values])

    reward, last = row(*rewards, 0.0), row(*[False] * steps, True)
    discounted = [sum(0.5**k * r for k, r in enumerate(rewards[t:])) for t in range(steps + 1)]
    return Segment(
        images={}, camera_mask={}, state=jnp.zeros((1, steps + 1, 0)), instruction=jnp.zeros((1, 4)),
        tokens=jnp.asarray([[[1, 0], [2, 1], [0, 1]][:steps] + [[0, 0]]]) * (jnp.asarray(bins) > 0),
        bins=jnp.asarray([bins]), relabelled=jnp.asarray([False]),
        action_mask=jnp.asarray([[[size > 0 for size in bins]] * (steps + 1)]),
        reward=reward, mc_return=row(*discounted),
        episode_return=reward.sum(axis=1), dt=jnp.ones((1, steps + 1)), step=row(*range(steps + 1)),
        is_first=row(True, *[False] * steps), is_last=last, is_terminal=last & terminal, valid=last | True,
        trainable=~last, success=jnp.asarray([terminal]),
    )  # fmt: skip


def with_other_last_record(batch):
    """What its last record holds beside the observation means nothing."""
    changes = {"reward": 5.0, "mc_return": 5.0, "tokens": 1}
    return dataclasses.replace(
        batch, **{name: getattr(batch, name).at[0, -1].set(value) for name, value in changes.items()}
    )


def relabelled(batch):
    return dataclasses.replace(batch, relabelled=jnp.asarray([True]))


def config_of(agent, **settings):
    config = ml_collections.ConfigDict(
        {"agent": agent.get_config(), "value_range": (0.0, 1.0), "discount": 0.5, "dt_ref": 1.0}
        | {"model": {"chunk": 1}}
    )
    config.agent.update(settings)
    return config


def sums(agent, params, target, batch, **settings):
    return loss(agent, config_of(agent, **settings), NETWORK, params, target, batch, None)


def loss(agent, config, network, params, target, batch, dropout_key):
    targets = agent.targets and agent.targets(config, ENSEMBLE, target, batch)
    return agent.loss(config, network, params, targets, batch, dropout_key)


def means(*args, **settings):
    return {name: losses.mean(total) for name, total in sums(*args, **settings).items()}


def only_the_policy_has_dropout(agent, params, target, batch):
    """Tells whether dropout changes the policy's terms alone.

    The network answers a dropout key with half its outputs. The values' terms and the weights are as without.
    """
    half = types.SimpleNamespace(
        interface=INTERFACE, score=lambda params, segment, key=None: params if key is None else params / 2
    )
    dropped = loss(agent, config_of(agent), half, params, target, batch, jax.random.key(0))
    plain = sums(agent, params, target, batch)
    same = {name: bool(dropped[name][0] == plain[name][0]) for name in plain}
    return not same.pop("loss") and not same.pop("policy_loss") and all(same.values())
