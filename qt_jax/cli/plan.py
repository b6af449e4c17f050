"""`plan`: the train step of a config, compiled for devices that need not be here: memory, FLOPs, communication, predicted step time."""

from __future__ import annotations

from typing import Any

import ml_collections
from absl import flags

from qt_jax import text
from qt_jax.envs import metaworld
from qt_jax.errors import UserError
from qt_jax.models.q_transformer import Network, parameter_count
from qt_jax.training import chips, hlo, mesh, program, topology
from qt_jax.training.config import validate

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("topology", "", "A TPU topology to compile for, such as v5e:4x4, v4:2x2x2 or v5p:2x2x4.")
    flags.DEFINE_integer("devices", 0, "Or so many simulated CPU devices.")


def main(config: Any) -> None:
    if bool(FLAGS.topology) == bool(FLAGS.devices):
        raise UserError("Give one of --topology=v5e:4x4 (a TPU slice) and --devices=8 (simulated CPU devices).")
    devices = topology.tpu_devices(FLAGS.topology) if FLAGS.topology else topology.cpu_devices(FLAGS.devices)
    config = ml_collections.FrozenConfigDict(config)
    validate(config, len(devices))
    network = Network.create(config.model, metaworld.action_spec(config.env), metaworld.observation_spec(config.env), text.DIM)
    print(report(config, network, program.build(config, network, mesh.make_mesh(config.mesh, devices))))


def report(config: Any, network: Network, compiled: program.Program) -> str:
    """The plan as text; every figure says whether it was compiled, or modelled from published peaks."""
    kind, count = compiled.mesh.devices.flat[0].device_kind, compiled.mesh.size
    parts, sent = program.memory(compiled), hlo.collectives(compiled.step.as_text())
    flops = program.step_flops(config, network, compiled.state, compiled.batch) / count
    lines = [
        f"{config.agent.name}, {parameter_count(compiled.state.params):,} parameters, batch {config.data.batch_size} segments of "
        f"{config.data.segment_length} on {count} x {kind}: " + " x ".join(f"{axis} {size}" for axis, size in compiled.mesh.shape.items()),
        "memory on each device (compiled):",
        program.memory_table(parts).rstrip(),
        "sent by each step (compiled; bytes of the arrays that a device's group gathers or reduces):",
        *(f"  {name:20}{size / 2**20:12,.1f} MiB" for name, size in sorted(sent.items())),
        f"method's FLOPs of a step on each device (from the program before optimisation): {flops / 1e9:,.1f} GFLOP",
    ]
    chip = chips.published(kind)
    if chip:
        compute, wire = flops / chip.flops, sum(sent.values()) / chip.interconnect
        memory = compiled.step.cost_analysis().get("bytes accessed", 0.0) / chip.bandwidth
        slowest = max(compute, memory)
        lines += [
            f"fits {kind}: {'yes' if parts['total'] <= chip.memory else 'NO'}, {parts['total'] / chip.memory:.1%} of its "
            f"{chip.memory / 2**30:.0f} GiB",
            f"step time (modelled from published peaks): compute {compute * 1e3:.3g} ms, memory {memory * 1e3:.3g} ms, communication "
            f"{wire * 1e3:.3g} ms; between {max(slowest, wire) * 1e3:.3g} ms (all overlapped) and {(slowest + wire) * 1e3:.3g} ms (none)",
            f"scaling efficiency (modelled, no overlap): {slowest / (slowest + wire):.0%}",
        ]
    return "\n".join(lines)
