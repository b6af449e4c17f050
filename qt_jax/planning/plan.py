"""Compiles the train step of a config for devices that need not be here.

Reports memory, FLOPs, communication and a predicted step time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from qt_jax import agents, text
from qt_jax.data import tables
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import parameter_count
from qt_jax.planning import communication, hlo, topology
from qt_jax.training import chips, datasets, mesh, program, setup
from qt_jax.training.config import validate

_BETWEEN = " between slices"


def networks(config: Any, devices: int) -> tuple[ml_collections.FrozenConfigDict, Ensemble]:
    """Returns the config, with its value range, and the networks that it trains on so many devices.

    Raises:
        UserError: if the config is bad, or does not fit that many devices.

    """
    config = ml_collections.FrozenConfigDict(config)
    validate(config, devices)
    chosen = datasets.entries(config)
    config = setup.with_value_range(config, config.dt_ref)  # it changes no shape
    interface = setup.with_chunks(config, tables.interface(chosen, config.data.image_size, text.DIM))
    return config, agents.make_ensemble(config, interface)


def figures(config: Any, devices: list[Any]) -> dict[str, Any]:
    """Computes what the train step of `config` needs on these devices, and how long it may take.

    Returns:
        From the compiled program: "memory", bytes on each device; "sent", {kind: (bytes of the arrays that a
        device's group gathers or reduces, how often, over what)}. From the program before optimisation:
        "flops" of a step on each device. Modelled, on chips with published peaks, in seconds: "compute_s";
        "memory_s" (of scanned layers it counts one); "wire_s", of which "between_s" are between slices.

    Raises:
        UserError: if the config does not fit that many devices.

    """
    config, ensemble = networks(config, len(devices))
    compiled = program.build(config, ensemble, mesh.make_mesh(config.mesh, devices))
    exchanges = hlo.collectives(compiled.step.as_text() or "")

    slices = len({getattr(device, "slice_index", 0) for device in devices})
    across = mesh.AXES[mesh.axis_across(config.mesh, len(devices), slices)]
    values = {
        "across": f"; {across} crosses the {slices} slices" if slices > 1 else "",
        "agent": config.agent.name,
        "parameters": parameter_count(compiled.state.params),
        "batch": (config.data.batch_size, config.data.segment_length),
        "device": devices[0].device_kind,
        "scanned": config.model.scan_layers,
        "mesh": dict(compiled.mesh.shape),
        "memory": program.memory(compiled),
        "sent": sent(exchanges),
        "flops": program.step_flops(config, ensemble, compiled.state, compiled.batch) / len(devices),
    }

    if chip := chips.published(values["device"]):
        accessed = (compiled.step.cost_analysis() or {}).get("bytes accessed", 0.0)
        values["device_memory"] = chip.memory
        values["compute_s"] = values["flops"] / chip.flops
        values["memory_s"] = accessed / chip.bandwidth
        within, between = communication.seconds(exchanges, list(compiled.mesh.devices.flat), chip)
        values |= {"wire_s": within + between, "between_s": between}
    return values


def sent(exchanges: Mapping[hlo.Collective, int]) -> dict[str, tuple[float, int, str]]:
    """Adds up a step's exchanges by kind: {kind: (bytes, how often, over how many devices or slices)}."""
    table: dict[str, tuple[float, int, set[int]]] = {}
    for exchange, times in exchanges.items():
        far = exchange.slices > 1
        name = exchange.kind + _BETWEEN * far
        size, count, over = table.get(name, (0.0, 0, set()))
        many = exchange.slices if far else len(exchange.groups[0])
        table[name] = (size + times * exchange.size, count + times, over | {many})
    units = {name: "slices" if name.endswith(_BETWEEN) else "devices" for name in table}
    return {
        name: (size, count, f"{' or '.join(map(str, sorted(over)))} {units[name]}")
        for name, (size, count, over) in sorted(table.items())
    }


def fits(config: Any, kind: str) -> Iterator[str]:
    """Finds the smallest slice, or number of GPUs, with the memory for a train step of `config`.

    Args:
        config: of the training.
        kind: of TPU or GPU, as `topology.ascending` has it.

    Yields:
        A line for each that is tried.

    Raises:
        UserError: if none has the memory.

    """
    for name, devices, memory in topology.ascending(kind):
        estimate = " (an estimate: compiled for as many TPU v5p)" if kind in topology.GPUS else ""
        try:
            needed = figures(config, devices)["memory"]["total"]
        except UserError as error:
            yield f"{name}: no; {error}"
            continue
        fitting, share = needed <= memory, f"{needed / 2**30:.2g} of {memory / 2**30:.0f} GiB"
        yield f"{name}: {'yes' if fitting else 'no'}, {share} on each{estimate}"
        if fitting:
            return
    raise UserError(
        f"No {kind} that was tried has the memory; shard it (config.mesh.fsdp), recompute more "
        "(config.model.remat=full), or lower config.data.batch_size or raise config.train.accumulation.",
        topic="out-of-memory",
    )


def report(values: dict[str, Any]) -> str:
    """Formats `figures`; each says whether it was compiled, or modelled from published peaks."""
    (batch, length), parts, kind = values["batch"], values["memory"], values["device"]
    flops = f"{values['flops'] / 1e9:,.1f} GFLOP"
    shape = " x ".join(f"{axis} {size}" for axis, size in values["mesh"].items())
    lines = [
        f"{values['agent']}, {values['parameters']:,} parameters, batch {batch} segments of {length} on "
        f"{math.prod(values['mesh'].values())} x {kind}: {shape}{values['across']}",
        "memory on each device (compiled):",
        program.memory_table(parts).rstrip(),
        "sent by each step (compiled; bytes of the arrays that a device's group gathers or reduces):",
        *(
            f"  {name:34}{size / 2**20:12,.1f} MiB in {times} exchanges, over {over}"
            for name, (size, times, over) in values["sent"].items()
        ),
        f"method's FLOPs of a step on each device (from the program before optimisation): {flops}",
    ]
    if "device_memory" in values:
        gib = values["device_memory"] / 2**30
        compute, memory, wire = (values[name] * 1e3 for name in ("compute_s", "memory_s", "wire_s"))
        once = " (at least: the compiler counts a loop's body once)" if values["scanned"] else ""
        far = f" (of it {values['between_s'] * 1e3:.3g} ms between slices)" if values["between_s"] else ""
        slowest, held = max(compute, memory), parts["total"] / values["device_memory"]
        lines += [
            f"fits {kind}: {'yes' if held <= 1 else 'NO'}, {held:.1%} of its {gib:.0f} GiB",
            f"communication's model (assumed, not measured): {communication.MODEL}"
            + communication.MODEL_BETWEEN * bool(values["across"]),
            f"step time (modelled from published peaks): compute {compute:.3g} ms, "
            f"memory {memory:.3g} ms{once}, communication {wire:.3g} ms{far}; between "
            f"{max(slowest, wire):.3g} ms (all overlapped) and {slowest + wire:.3g} ms (none)",
            f"scaling efficiency (modelled, no overlap): {slowest / (slowest + wire):.0%}",
        ]
    return "\n".join(lines)
