"""`plan`: the train step of a config, compiled for devices that need not be here: memory, FLOPs,
communication, predicted step time.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from qt_jax.errors import UserError
from qt_jax.planning import plan, topology

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string(
        "topology", "", "A TPU topology to compile for, such as v5e:4x4, v4:2x2x2 or v5p:2x2x4."
    )
    joined = "So many slices of --topology, joined by the data centre's network."
    flags.DEFINE_integer("slices", 1, joined, lower_bound=1)
    flags.DEFINE_integer("devices", 0, "Or so many simulated CPU devices.", lower_bound=0)
    flags.DEFINE_string(
        "fits",
        "",
        "Or the smallest slice of v4, v5e, v5p or v6e, or number of a100, h100 or h200, that it fits.",
    )


def main(config: Any) -> None:
    if sum(map(bool, (FLAGS.topology, FLAGS.devices, FLAGS.fits))) != 1:
        raise UserError(
            "Give one of --topology=v5e:4x4 (a TPU slice), --devices=8 (simulated CPU devices) and "
            "--fits=v5e (or h100)."
        )
    if FLAGS.slices > 1 and not FLAGS.topology:
        raise UserError(
            f"--slices={FLAGS.slices} without --topology: give the topology of a slice, such as v5e:4x4."
        )
    if FLAGS.fits:
        for line in plan.fits(config, FLAGS.fits):
            print(line, flush=True)
        return
    devices = (
        topology.tpu_devices(FLAGS.topology, FLAGS.slices)
        if FLAGS.topology
        else topology.cpu_devices(FLAGS.devices)
    )
    print(plan.report(plan.figures(config, devices)))
