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
from qt_jax.training import chips, mesh, program
from qt_jax.training.state import init_state, train_step


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
    def least_s(self) -> float:
        """The least time."""
        return max(self.compute_s, self.memory_s)

    @property
    def by(self) -> str:
        """Which of the two binds."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


@dataclasses.dataclass(frozen=True)
class Part:
    """Work of a train step of the whole batch.

    Attributes:
        work: as the config has it, with what the backward pass computes again.
        needed: its FLOPs if nothing is computed again.

    """

    work: Work
    needed: float

    def on(self, chip: chips.Chip) -> Bounds:
        """Computes the bounds on one chip."""
        compute, memory = self.work.flops / chip.flops, self.work.bytes / chip.bandwidth
        return Bounds(compute, memory, self.needed / chip.flops / max(compute, memory))


def of_config(config: Any) -> dict[str, Part]:
    """Counts the train step of `config` on one chip, whatever its mesh.

    Returns:
        "step", and "image encoders", the part of it that they are, if any.

    Raises:
        UserError: for a bad config, or a step that cannot be counted.

    """
    alone = ml_collections.ConfigDict(config)
    alone.mesh = mesh.get_config()
    config, ensemble = plan.networks(alone, 1)
    work = once = _counted(config, ensemble)
    if (config.model.remat, config.model.encoder_remat) != ("none", "none"):
        plain = ml_collections.ConfigDict(config.model)
        plain.remat, plain.encoder_remat = "none", "none"
        once = _counted(config, ensemble.with_config(plain))
    return {name: Part(work[name], once[name].flops) for name in work if work[name].flops}


def _counted(config: Any, ensemble: Ensemble) -> dict[str, Work]:
    return {"step": of_step(config, ensemble), "image encoders": of_encoders(config, ensemble)}


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


def report(parts: dict[str, Part]) -> str:
    """Formats what `of_config` gave: what is counted, then the bounds on each chip of `chips.CHIPS`."""
    lines = ["A step of the whole batch on one chip, counted from its trace (planning/traffic.py says how):"]
    for name, part in parts.items():
        flops, moved, needed = part.work.flops, part.work.bytes, f"{part.needed / 1e9:,.1f} GFLOP"
        again = "" if flops == part.needed else f" ({flops / 1e9:,.1f} with what is computed again)"
        lines.append(
            f"  {name:16}{needed}{again}, {moved / 1e9:,.2f} GB moved: {flops / moved:.0f} FLOP a byte"
        )
    lines += [
        "The least time at the published peaks (bfloat16) and bandwidths; nothing of it is measured:",
        f"  {'':31}compute ms  memory ms  bound by  MFU at best",
    ]
    for chip, figures in chips.CHIPS.items():
        for name, part in parts.items():
            of = part.on(figures)
            times = f"{of.compute_s * 1e3:11.3g}{of.memory_s * 1e3:11.3g}"
            lines.append(f"  {chip:15}{name:15}{times}  {of.by:8}  {of.mfu:11.0%}")
    return "\n".join(lines)
