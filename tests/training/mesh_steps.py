"""A process of 8 simulated devices in float64 (see test_mesh.py).

A train step on any mesh is the step on one device.
"""

import dataclasses
import itertools
import sys

import jax
import ml_collections
import numpy as np

from qt_jax import agents
from qt_jax.models.ensemble import Ensemble
from qt_jax.training import mesh, program, sharding
from qt_jax.training.config import default_config
from qt_jax.training.state import init_state
from tests.models.test_q_transformer import make_network, make_segment

MIXED = (2, 2, 2)
MESHES = [MIXED, (8, 1, 1), (1, 8, 1), (1, 1, 8)]
WIDTH = {"width": 64, "heads": 8, "dtype": "float64"}  # every axis of 8 divides the heads


def make_config(agent, chunk=1, **train):
    config = default_config(agent)
    config.model.chunk = chunk
    config.value_range = (0.0, 1.0)
    config.data.batch_size, config.data.segment_length = 16, 4
    config.optimizer.warmup_steps = 0  # else the first step moves nothing
    config.train.update(train)
    return config


def make_batch(cameras, chunk):
    """16 rows of which the first two hold most of the trainable steps and the last five none."""
    rng = np.random.default_rng(1)
    segment = make_segment(steps=4, batch=16, cameras=cameras, chunk=chunk)
    counts = np.asarray([4, 4, 1, 0, 2, 0, 0, 1, 0, 3, 1, 0, 0, 0, 0, 0])
    reward = rng.uniform(size=(16, 4)).astype(np.float32)
    return dataclasses.replace(segment, trainable=np.arange(4)[None] < counts[:, None], reward=reward)


def as_float64(tree):
    return jax.tree.map(lambda x: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x, tree)


SHARED = {
    "mixed": {"entropy_target": 0.9},  # whose loss is added to the agent's
    "chunks": {"chunk": 2},
    "networks": {"networks": 2},
    "frozen": {"frozen_encoder": True},
    "closed_form": {
        "own": {
            **{"behaviour_weight": 1.0, "conservatism": "closed_form", "support": 0.3, "support_width": 0.1},
            "backup": "skip_decoded",
        },
    },
}
"""{extent: settings of both steps that are compared: on one device, and in parts on the mesh MIXED}."""

COMPILED = {"networks": {"scan_layers": True, "remat": "dots", "encoder_remat": "full"}}
"""{extent: settings of the latter alone}."""


OF_MODEL = "scan_layers remat encoder_remat attention entropy_target networks frozen_encoder".split()
"""Settings that are of `config.model`."""


def step_on(sizes, agent, cameras, chunk=1, own=None, **settings):
    """Loss and the whole train state after one step: the moments of the optimiser are the gradients.

    `own` are settings of the agent.
    """
    model = {name: settings.pop(name) for name in list(settings) if name in OF_MODEL}
    config = make_config(agent, chunk, **settings)
    config.model.update(model)
    config.agent.update(own or {})
    config = ml_collections.FrozenConfigDict(config)
    if conditioned := agents.get(agent).RETURN_CONDITIONED:
        model |= {"return_conditioned": conditioned, "timesteps": 64}  # enough that the table is split
    model["outputs"] = agents.get(agent).outputs(config)
    ensemble = Ensemble(make_network(cameras=cameras, chunk=chunk, execute=chunk, **WIDTH, **model))
    device_mesh = mesh.make_mesh(
        ml_collections.ConfigDict(dict(zip(mesh.AXES, sizes))), jax.devices()[: np.prod(sizes)]
    )
    state, batch = as_float64(init_state(config, ensemble)), as_float64(make_batch(cameras, chunk))
    state = jax.device_put(state, sharding.of_state(device_mesh, state, ensemble.count))
    batch = jax.device_put(batch, mesh.batch_sharding(device_mesh))
    with jax.set_mesh(device_mesh):
        state, metrics = program.jitted(config, ensemble, state, device_mesh)(state, batch)
    return jax.device_get(metrics["loss"]), jax.device_get(state)


def check(expected, found, case):
    """Loss and gradients agree to a millionth of their norm: attention's softmax is always float32.

    Adam's first step is nearly the gradient's sign, so it magnifies what is left in small gradients:
    parameters to a ten-thousandth.
    """
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(expected)]
    for path, one, other in zip(paths, jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        error = np.linalg.norm(other - one) / max(np.linalg.norm(one), 1e-12)
        assert error < (1e-4 if "params" in path else 1e-6), (
            f"{case}: {path} differs by {error:.1e} of its norm"
        )


def main(agent: str, modality: str, extent: str) -> None:
    """Compares what `extent` says: one of `SHARED`; "plain", every mesh; "variants", remat and scan too."""
    cameras, shared = ("front",) if modality == "images" else (), SHARED.get(extent, {})
    expected = step_on((1, 1, 1), agent, cameras, **shared)
    assert np.isfinite(expected[0]) and expected[0] > 0
    again = shared | COMPILED.get(extent, {}) | {"accumulation": 4}
    check(expected, step_on(MIXED, agent, cameras, **again), "accumulation")
    for sizes in () if extent in SHARED else MESHES:
        check(expected, step_on(sizes, agent, cameras), sizes)
    for attention, remat in itertools.product(
        ("per_frame", "window") if extent == "variants" else (), ("dots", "full")
    ):
        plain = step_on((1, 1, 1), agent, cameras, attention=attention)
        looped = step_on(
            MIXED, agent, cameras, attention=attention, scan_layers=True, remat=remat, encoder_remat="full"
        )
        check(plain, looped, (attention, remat))


if __name__ == "__main__":
    main(*sys.argv[1:])
