"""`plan`: compiles the train step of a config for devices that need not be here.

Prints memory, FLOPs, communication and a predicted step time; or, without compiling, the roofline of each
accelerator.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from qt_jax.errors import UserError
from qt_jax.planning import plan, roofline, topology

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's own flags."""
    flags.DEFINE_string(
        "topology", "", "A TPU topology to compile for, such as v5e:4x4, v4:2x2x2 or v5p:2x2x4."
    )
    slices = "How many slices of --topology, joined by the data centre's network."
    flags.DEFINE_integer("slices", 1, slices, lower_bound=1)
    devices = "Instead, how many simulated CPU devices to compile for."
    flags.DEFINE_integer("devices", 0, devices, lower_bound=0)
    kinds = "this TPU (v4, v5e, v5p, v6e), or number of this GPU (a100, h100, h200)"
    flags.DEFINE_string("fits", "", f"Instead, find the smallest slice of {kinds}, that the config fits.")
    flags.DEFINE_bool(
        "roofline", False, "Instead, say whether FLOPs or memory bind a step on each kind of chip."
    )


def main(config: Any) -> None:
    """Prints the figures on the given devices, on which the config fits, or the rooflines."""
    if sum(map(bool, (FLAGS.topology, FLAGS.devices, FLAGS.fits, FLAGS.roofline))) != 1:
        raise UserError(
            "Give one of --topology=v5e:4x4 (a TPU slice), --devices=8 (simulated CPU devices), "
            "--fits=v5e (or h100) and --roofline."
        )
    if FLAGS.slices > 1 and not FLAGS.topology:
        raise UserError(
            f"--slices={FLAGS.slices} without --topology: give the topology of a slice, such as v5e:4x4."
        )
    if FLAGS.fits:
        for line in plan.fits(config, FLAGS.fits):
            print(line, flush=True)
        return
    if FLAGS.roofline:
        print(roofline.report(roofline.of_config(config)))
        return
    if FLAGS.topology:
        devices = topology.tpu_devices(FLAGS.topology, FLAGS.slices)
    else:
        devices = topology.cpu_devices(FLAGS.devices)
    print(plan.report(plan.figures(config, devices)))
