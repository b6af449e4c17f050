"""Measures one learner size: `python -m benchmarks.learner_step SIZE`.

It runs in a process of its own, so that its peak memory is its own, and prints one line of JSON. `quickstart`
and `metaworld_mt10` are the shipped configs; `laptop` and `rt1` have the image size, history, action dims and
bins of the peer's runs in benchmarks/peer_q_transformer.py; `blocks_laptop` and `blocks_rt1` are those sizes'
Transformer alone.
"""

from __future__ import annotations

import functools
import importlib
import json
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qt_jax import agents
from qt_jax.agents import backup
from qt_jax.envs import metaworld
from qt_jax.models import q_transformer as model
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import parameter_count
from qt_jax.models.transformer import Transformer
from qt_jax.segment import Segment
from qt_jax.specs import ActionSpec, Interface, ObservationSpec
from qt_jax.text import DIM
from qt_jax.training import chips, program, setup
from qt_jax.training.config import default_config
from qt_jax.training.state import init_state, train_step

SHIPPED = ("quickstart", "metaworld_mt10")
PEER = {
    "laptop": {"image_size": 64, "dims": 4, "bins": 64, "batch_size": 32, "segment_length": 12},
    "rt1": {"image_size": 224, "dims": 8, "bins": 256, "batch_size": 2, "segment_length": 18},
}
MIN_SECONDS, MAX_REPEATS = 20.0, 15


def shipped(name: str):
    config = importlib.import_module(f"experiments.{name}").get_config()
    return config, interface_of(config)


def interface_of(config) -> Interface:
    """Makes the interface of an experiment on Meta-World."""
    action, observation = metaworld.action_spec(config.env), metaworld.observation_spec(config.env)
    return setup.with_chunks(config, Interface(action, observation, DIM))


def as_peer(name: str):
    """Makes the config and specs of a robot with one camera at the peer's sizes.

    Float32 and nothing rematerialised, which is fastest on a CPU and what the peer does.
    """
    size, config = PEER[name], default_config()
    config.model = model.laptop() if name == "laptop" else model.paper()
    config.model.update(
        image_size=size["image_size"], dtype="float32", remat="none", encoder_remat="none", scan_layers=False
    )
    if name == "laptop":
        config.model.window = 3
    config.data.batch_size, config.data.segment_length = size["batch_size"], size["segment_length"]
    dims = size["dims"]
    action = ActionSpec([f"a{i}" for i in range(dims)], [-1.0] * dims, [1.0] * dims, [size["bins"]] * dims)
    observation = ObservationSpec(("image",), (size["image_size"],) * 2, 0, "")
    return config, Interface(action, observation, DIM)


def random_segment(config, interface: Interface) -> Segment:
    """Makes a full batch, in which every step that a middle cut trains is trainable."""
    action, observation = interface.decision, interface.observation
    rng = np.random.default_rng(0)
    shape = (config.data.batch_size, config.data.segment_length)
    flags = np.zeros(shape, bool)
    trainable = flags.copy()
    context = (config.model.window - 1) * interface.execute
    trainable[:, context : shape[1] - backup.steps(config)] = True
    zeros = np.zeros(shape, np.float32)
    return Segment(
        images={
            name: rng.integers(0, 255, (*shape, *observation.image_size, 3), np.uint8)
            for name in observation.cameras
        },
        camera_mask={name: np.ones(shape[0], bool) for name in observation.cameras},
        state=rng.normal(size=(*shape, observation.state_dim)).astype(np.float32),
        instruction=rng.normal(size=(shape[0], interface.instruction_dim)).astype(np.float32),
        tokens=rng.integers(0, action.max_bins, (*shape, action.dims)).astype(np.int32),
        bins=np.repeat(np.int32([action.bins]), shape[0], axis=0),
        action_mask=np.ones((*shape, action.dims), bool),
        reward=zeros, mc_return=zeros, dt=zeros + config.dt_ref,
        step=np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
        is_first=flags, is_last=flags, is_terminal=flags, valid=~flags, trainable=trainable,
        success=np.ones(shape[0], bool), episode_return=zeros[:, 0], relabelled=np.zeros(shape[0], bool),
    )  # fmt: skip


def median_s(run) -> float:
    """Measures the median wall time of `run`, which returns arrays to wait for.

    One call first to compile, then as many as `MIN_SECONDS` needs.
    """
    jax.block_until_ready(run())
    times = []
    while len(times) < MAX_REPEATS and (len(times) < 3 or sum(times) < MIN_SECONDS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_learner(name: str) -> dict[str, float]:
    """Measures the jitted train step on a batch in memory: what `train` runs, without its data pipeline."""
    config, interface = shipped(name) if name in SHIPPED else as_peer(name)
    config = setup.with_value_range(config, config.dt_ref)
    ensemble = agents.make_ensemble(config, interface)
    batch = jax.device_put(random_segment(config, interface))
    holder = [init_state(config, ensemble)]
    flops = program.step_flops(config, ensemble, holder[0], batch)
    step = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)

    def run():
        holder[0], metrics = step(holder[0], batch)
        return metrics

    seconds, transitions = median_s(run), int(batch.trainable.sum())
    frames = config.data.batch_size * config.data.segment_length
    return {
        "parameters": parameter_count(holder[0].params),
        "steps_per_s": 1 / seconds,
        "transitions_per_s": transitions / seconds,
        "transitions_per_step": transitions,
        "peak_memory_gib": peak_memory_gib(),
        "step_gflop": flops / 1e9,
        "share_of_matmul_peak": flops / seconds / chips.measured_peak(),
        "image_encoder_gflop_a_frame": encoder_flops(ensemble, holder[0].params, batch) / frames / 1e9,
        "frame_passes_a_transition": 4 * frames / transitions,
    }


def encoder_flops(ensemble: Ensemble, params: dict, batch: Segment) -> float:
    """Counts the FLOPs of one forward pass of the image encoders over the batch."""
    frames = batch.valid.size
    images = jax.tree.map(lambda x: x.reshape(frames, *x.shape[2:]), batch.images)
    instruction = jnp.repeat(batch.instruction, batch.valid.shape[1], axis=0)

    def encode(params, images, instruction):
        cameras = nnx.merge(ensemble.network.graphdef, params).cameras
        return [cameras[name](image, instruction) for name, image in images.items()]

    return jax.jit(encode).lower(params, images, instruction).cost_analysis().get("flops", 0.0)


def measure_blocks(name: str) -> dict[str, float]:
    """Measures a forward and backward pass (3F) of the Transformer alone.

    It runs over the frame tokens and actions of that size's batch.
    """
    config, interface = as_peer(name)
    steps, config = config.data.batch_size * config.data.segment_length * 4, config.model
    config.dropout = 0.0
    frame_tokens = 1 + config.image_tokens
    graphdef, params = nnx.split(Transformer(config, frame_tokens, 0, jnp.float32, nnx.Rngs(0)))

    def forward(params, tokens, actions):
        transformer = nnx.merge(graphdef, params)
        cache = transformer.frame_cache(tokens)
        seen = jax.tree.map(
            lambda x: jnp.stack([jnp.roll(x, age, axis=0) for age in range(config.window)], axis=1), cache
        )
        mask = jnp.ones((steps, config.window), bool)
        return transformer.decode(transformer.context(seen, mask), mask, actions)

    rng = np.random.default_rng(0)
    tokens, actions = (
        jnp.asarray(rng.normal(size=(steps, n, config.width)), jnp.float32)
        for n in (frame_tokens, interface.action.dims)
    )
    gradient = jax.jit(jax.grad(lambda *args: jnp.sum(forward(*args) ** 2), argnums=(0, 1, 2)))
    seconds = median_s(lambda: gradient(params, tokens, actions))
    flops = 3 * jax.jit(forward).lower(params, tokens, actions).cost_analysis()["flops"]
    return {
        "step_gflop": flops / 1e9,
        "steps_per_s": 1 / seconds,
        "share_of_matmul_peak": flops / seconds / chips.measured_peak(),
    }


def peak_memory_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    measure = measure_blocks if sys.argv[1].startswith("blocks_") else measure_learner
    print(json.dumps(measure(sys.argv[1].removeprefix("blocks_"))))
