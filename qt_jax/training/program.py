"""The train step as a compiled program on a mesh: its shardings, its memory, its FLOPs.

For the loop and for `plan` alike.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.images import EncoderAlone
from qt_jax.segment import Segment, segment_struct
from qt_jax.specs import Interface
from qt_jax.training import mesh, sharding, traced
from qt_jax.training.state import init_state, train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step."""

    mesh: jax.sharding.Mesh
    state: Any
    """ShapeDtypeStructs with shardings."""
    batch: Segment
    """ShapeDtypeStructs with shardings."""
    step: jax.stages.Compiled
    """(state, batch) -> (state, metrics); the state is donated."""
    begin: jax.stages.Compiled | None
    """Settings -> train state of step 0; None for a run that goes on."""

    def init(self, config: Any) -> Any:
        """Makes a fresh train state in its shardings; no device ever holds all of it."""
        assert self.begin, "the program was built for a run that goes on"
        return self.begin(_settings(config))

    def with_settings(self, config: Any) -> Any:
        """Returns `state` with this config's settings in their shardings, to restore a checkpoint into."""
        shardings = jax.tree.map(lambda x: x.sharding, self.state.settings)
        settings = jax.jit(dict, out_shardings=shardings)(_settings(config))
        return dataclasses.replace(self.state, settings=settings)


def _settings(config: Any) -> dict[str, Any]:
    return jax.device_get(traced.values(config))


def jitted(config: Any, ensemble: Ensemble, state: Any, device_mesh: jax.sharding.Mesh) -> Any:
    """Returns the jitted train step: `state` keeps its shardings and is donated, the batch is split.

    `state` has arrays or ShapeDtypeStructs. Call or lower the step within `jax.set_mesh(device_mesh)`: the
    network keeps activations on the devices of their rows.
    """
    placed = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(
        functools.partial(train_step, config, ensemble),
        in_shardings=(placed, mesh.batch_sharding(device_mesh)),
        out_shardings=(placed, mesh.replicated(device_mesh)),
        donate_argnums=0,
    )


def batch_shapes(config: Any, interface: Interface) -> Segment:
    """Returns the shapes and dtypes of the batch that a step of `config` takes."""
    encoder = EncoderAlone(config.model, interface.instruction_dim) if config.data.cache_features else None
    features = encoder.shape if encoder else None
    return segment_struct(interface, config.data.batch_size, config.data.segment_length, features)


def build(config: Any, ensemble: Ensemble, device_mesh: jax.sharding.Mesh, fresh: bool = False) -> Program:
    """Compiles the train step of `config` for that mesh (real devices, or a topology's).

    For a `fresh` run also what makes its state, beside the step: each takes its time, mostly on one core.
    """

    def begin(settings: Any) -> Any:  # one function, so that JAX traces it once
        return init_state(traced.With(config, settings), ensemble)

    shapes = jax.eval_shape(begin, _settings(config))
    state = sharding.abstract(shapes, sharding.of_state(device_mesh, shapes, ensemble.count))
    split = mesh.batch_sharding(device_mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
        batch_shapes(config, ensemble.interface),
    )

    def compile_begin() -> jax.stages.Compiled:
        shardings = jax.tree.map(lambda x: x.sharding, state)
        return jax.jit(begin, out_shardings=shardings).lower(_settings(config)).compile()

    with concurrent.futures.ThreadPoolExecutor(1) as beside, jax.set_mesh(device_mesh):
        lowered = jitted(config, ensemble, state, device_mesh).lower(state, batch)
        beginning = beside.submit(compile_begin) if fresh else None
        step = lowered.compile()
    return Program(device_mesh, state, batch, step, beginning.result() if beginning else None)


def step_flops(config: Any, ensemble: Ensemble, state: Any, batch: Segment) -> float:
    """Counts the FLOPs of a step over the whole batch as the method needs them, whatever is recomputed.

    3F (online, forward and backward), and 1F more with a target network. F is one forward pass, counted in
    the program before optimisation with its layers unrolled, because a loop's body would count once. Frozen
    encoders pass forward once, whatever the rest does.
    """
    plain = ml_collections.ConfigDict(ensemble.config)
    plain.scan_layers, plain.remat, plain.encoder_remat = False, "none", "none"
    unrolled = ensemble.with_config(plain)

    def shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    def flops(function: Callable, *inputs: Any) -> float:
        costs: Any = jax.jit(function).lower(*inputs).cost_analysis()
        return costs["flops"]

    params, batch, seen = shapes(state.params), shapes(batch), 0.0
    if ensemble.config.frozen_encoder and not config.data.cache_features:
        seen = flops(unrolled.seen, params, batch)
        batch = jax.eval_shape(unrolled.seen, params, batch)
    passes = 3 if agents.get(config.agent.name).targets is None else 4
    return passes * flops(unrolled.score, params, batch) + seen


def memory(program: Program) -> dict[str, int]:
    """Returns the bytes that each part of a step needs on each device.

    The state's are from its shardings, those of gradients and activations from the compiled program.
    """
    analysis: Any = program.step.memory_analysis()
    state = program.state
    parts = {
        "parameters": sharding.bytes_per_device(state.params),
        "optimizer": sharding.bytes_per_device(state.opt_state),
        "target network": sharding.bytes_per_device(state.target_params),
        "batch": sharding.bytes_per_device(program.batch),
        "temporaries (gradients, activations)": analysis.temp_size_in_bytes,
        "outputs beside the state": max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
    }
    return parts | {"total": sum(parts.values())}


def memory_table(parts: dict[str, int]) -> str:
    """Returns what `memory` gave as lines in MiB."""
    width = max(map(len, parts))
    return "".join(f"  {name:{width}}  {size / 2**20:12,.1f} MiB\n" for name, size in parts.items())


def check_memory(parts: dict[str, int], device: Any) -> None:
    """Raises a UserError if the device says how much it has, and that is less than the step needs."""
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit and parts["total"] > limit:
        raise UserError(
            f"The train step needs {parts['total'] / 2**30:.1f} GiB on each {device.device_kind}, which has "
            f"{limit / 2**30:.1f} GiB; raise config.mesh.fsdp or config.train.accumulation, set "
            "config.model.remat and encoder_remat to 'full', or lower config.data.batch_size.",
            topic="out-of-memory",
        )
