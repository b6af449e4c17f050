"""The roofline of a config's train step: on which chip its FLOPs bind, on which its memory traffic.

Nothing is compiled: the step is traced, and traffic.py says what is counted.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from qt_jax import agents
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.images import EncoderAlone
from qt_jax.planning import plan, traffic
from qt_jax.planning.traffic import Work
from qt_jax.training import chips, program
from qt_jax.training.state import init_state, train_step


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What a train step of the whole batch computes and moves.

    Attributes:
        step: as the config has it, with what the backward pass computes again.
        needed: FLOPs of the step if nothing is computed again.
        encoders: of `step`, the image encoders' part.
        encoders_needed: of `needed`, theirs.

    """

    step: Work
    needed: float
    encoders: Work
    encoders_needed: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least time of some work on a chip, and the share of the chip's peak that is then used at best.

    Attributes:
        compute_s: its FLOPs at the peak.
        memory_s: its bytes at the memory's bandwidth.
        mfu: of the FLOPs that are needed.

    """

    compute_s: float
    memory_s: float
    mfu: float

    @property
    def by(self) -> str:
        """Which of the two binds."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


def bounds(work: Work, needed: float, chip: chips.Chip) -> Bounds:
    """Computes the bounds of `work` on one chip, of which FLOPs `needed` are not computed again."""
    compute, memory = work.flops / chip.flops, work.bytes / chip.bandwidth
    return Bounds(compute, memory, needed / chip.flops / max(compute, memory))


def of_config(config: Any) -> Roofline:
    """Counts the train step of `config`.

    Raises:
        UserError: for a bad config, or a step that cannot be counted.

    """
    config, ensemble = plan.networks(config, 1)
    step, encoders = of_step(config, ensemble), of_encoders(config, ensemble)
    if config.model.remat == config.model.encoder_remat == "none":
        return Roofline(step, step.flops, encoders, encoders.flops)
    plain = ml_collections.ConfigDict(config.model)
    plain.remat, plain.encoder_remat = "none", "none"
    plainly = ensemble.with_config(plain)
    return Roofline(step, of_step(config, plainly).flops, encoders, of_encoders(config, plainly).flops)


def of_step(config: Any, ensemble: Ensemble) -> Work:
    """Counts a train step of the whole batch."""
    state = jax.eval_shape(functools.partial(init_state, config, ensemble))
    batch = program.batch_shapes(config, ensemble.interface)
    return traffic.of(functools.partial(train_step, config, ensemble), state, batch)


def of_encoders(config: Any, ensemble: Ensemble) -> Work:
    """Counts the image encoders of a step.

    Each network's pass forward and backward, and forward once more with a target network; frozen ones forward
    once for all networks, and not at all if their features are kept.
    """
    model, observation = ensemble.config, ensemble.interface.observation
    if config.data.cache_features or not observation.cameras:
        return Work()
    alone = EncoderAlone(model, ensemble.interface.instruction_dim)
    frames = config.data.batch_size * config.data.segment_length
    images = jax.ShapeDtypeStruct((frames, *observation.image_size, 3), np.uint8)
    forward = traffic.of(alone, alone.params, images)
    if model.frozen_encoder:
        return forward * len(observation.cameras)

    def gradient(params: Any, images: jax.Array, cotangent: jax.Array) -> Any:
        features, backward = jax.vjp(lambda params: alone(params, images), params)
        return features, backward(cotangent)

    cotangent = jax.ShapeDtypeStruct((frames, *alone.shape), jnp.dtype(model.dtype))
    total = traffic.of(gradient, alone.params, images, cotangent)
    if agents.get(config.agent.name).targets is not None:
        total += forward
    return total * (len(observation.cameras) * ensemble.count)


def report(roofline: Roofline) -> str:
    """Formats a roofline: what is counted, then a line for each chip of `chips.CHIPS`."""
    parts = {"step": (roofline.step, roofline.needed)}
    if roofline.encoders.flops:
        parts["image encoders of it"] = roofline.encoders, roofline.encoders_needed
    lines = ["A step of the whole batch on one chip, counted from its trace (planning/traffic.py says how):"]
    lines += [_counted(name, *part) for name, part in parts.items()]
    lines += [
        "The least time at the published peaks (bfloat16) and bandwidths; nothing of it is measured:",
        "  " + " " * 38 + "compute ms  memory ms  bound by  MFU at best",
    ]
    for chip, figures in chips.CHIPS.items():
        for name, part in parts.items():
            of = bounds(*part, figures)
            times = f"{of.compute_s * 1e3:11.3g}{of.memory_s * 1e3:11.3g}"
            lines.append(f"  {chip:15}{name:22}{times}  {of.by:8}  {of.mfu:11.0%}")
    return "\n".join(lines)


def _counted(name: str, work: Work, needed: float) -> str:
    again = "" if work.flops == needed else f" ({work.flops / 1e9:,.1f} with what is computed again)"
    per_byte = f"{work.flops / work.bytes:.0f} FLOP a byte"
    return f"  {name:22}{needed / 1e9:,.1f} GFLOP{again}, {work.bytes / 1e9:,.2f} GB moved: {per_byte}"
