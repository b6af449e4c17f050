"""The training loop, top to bottom."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy.stats import mannwhitneyu

from qt_jax.data import episodes as data_episodes
from qt_jax.data import loader, segments
from qt_jax.errors import Preempted, UserError
from qt_jax.models.q_transformer import Network, parameter_count
from qt_jax.preprocess import StateStatistics
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training import checkpoints, chips, mesh, metrics, program, sharding
from qt_jax.training.config import validate
from qt_jax.training.preemption import Preemption
from qt_jax.training.profiler import Profiler
from qt_jax.training.state import TrainState, validation_step
from qt_jax.training.watchdog import Watchdog

MAX_VALIDATION_BATCHES = 32
SHOWN = ("train/loss", "train/grad_norm", "steps_per_s", "data_wait_share", "mfu", "goodput")


def train(config: Any, action: ActionSpec, observation: ObservationSpec, dt: Mapping[str, float]) -> TrainState:
    """Trains to `config.train.steps`, from the latest checkpoint in `config.workdir` if there is one.

    Args:
        dt: {task: seconds that the environment holds an action}; the data must have held them as long.

    Raises:
        UserError: for a bad config, bad data, a checkpoint of another config, or a loss that is not finite.
    """
    validate(config, jax.device_count())
    _use_compilation_cache(config.train.compilation_cache)
    device_mesh, batch_size = mesh.make_mesh(config.mesh), config.data.batch_size
    rows = mesh.local_rows(device_mesh, batch_size)
    dataset, source, validation, assets = load_data(config, action, observation, dt)
    network = Network.create(config.model, action, observation, assets.instruction_dim)
    checkpointer = checkpoints.Checkpointer(config.workdir, config.train)
    born = metrics.first_start(config.workdir)
    compiled = program.build(config, network, device_mesh)
    _announce(config, compiled, dataset, len(source))
    validation_fn = jax.jit(functools.partial(validation_step, config, network), out_shardings=mesh.replicated(device_mesh))
    iterator = loader.training_iterator(
        source,
        batch_size=batch_size,
        seed=config.seed,
        read_threads=config.data.read_threads,
        rows=rows,
        demonstration_share=config.data.demonstration_share,
    )
    productive_s = 0.0
    if checkpointer.latest_step is None:
        state = _initial_state(config, network, compiled, assets)
    else:
        state, position, clock = checkpointer.restore(compiled.state, assets)
        iterator.set_state(position)
        productive_s = clock["productive_s"]
        finished = ": nothing is left to do" if int(state.step) >= config.train.steps else ""
        _tell(f"resumed from step {int(state.step)} of {config.train.steps}{finished}")
    start, steps = int(state.step), config.train.steps
    meter = metrics.Meter(
        born, productive_s, program.step_flops(config, network, compiled.state, compiled.batch), chips.total_peak(device_mesh)
    )
    writer, dog = metrics.MetricWriter(config.workdir, start), Watchdog(config.train.step_timeout_s)
    profiler = Profiler(config.workdir, config.train.profile_start, config.train.profile_steps)
    try:
        with Preemption() as preemption:
            pending: dict[str, jax.Array] = {}
            measured: dict[str, float] = {}
            for step in range(start + 1, steps + 1):
                profiler.before(step)
                with meter.step():
                    with meter.data_wait():
                        local = next(iterator)
                    batch = loader.to_segment(mesh.put_batch(local, device_mesh, batch_size))
                    previous, (state, pending) = pending, compiled.step(state, batch)
                    # The check lags one step behind, so that the device never waits for it; before a save it is up to date.
                    metrics.check_finite(step - 1, jax.device_get(previous))
                final, leaving = step == steps, preemption.due(step)
                if step % config.train.log_every == 0 or final:
                    values = jax.device_get(pending)
                    metrics.check_finite(step, values)
                    values = {f"train/{k}": float(v) for k, v in values.items()} | meter.read(float(values["transitions"]))
                    writer.write(step, values)
                    metrics.progress(step, steps, {name: values[name] for name in SHOWN})
                if (step % config.train.validate_every == 0 or final) and len(validation):
                    measured = validate_on(validation, validation_fn, state, device_mesh, batch_size)
                    writer.write(step, measured)
                if (
                    step % config.train.checkpoint_every == 0 or final or leaving
                ):  # last: a run that resumes here has all metrics up to here
                    metrics.check_finite(step, jax.device_get(pending))
                    checkpointer.save(state, iterator.get_state(), assets, {"productive_s": meter.productive_s}, measured)
                checkpointer.check()
                dog.alive(step)
                if leaving and not final:
                    checkpointer.wait()
                    raise Preempted(f"told to stop after step {step}, which is saved; the same command continues from there")
    finally:
        profiler.close()
        checkpointer.close()
        writer.close()
        iterator.close()
        dog.close()
    return state


def _use_compilation_cache(path: str) -> None:
    if path:
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(path).expanduser()))


def _tell(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _announce(config: Any, compiled: program.Program, dataset: data_episodes.Dataset, segment_count: int) -> None:
    """What will run, and where everything lies; the whole table of shardings goes into the run's directory.

    Raises:
        UserError: if a device has too little memory.
    """
    shape = " x ".join(f"{axis} {size}" for axis, size in compiled.mesh.shape.items())
    parts = program.memory(compiled)
    _tell(
        f"{config.agent.name}: {parameter_count(compiled.state.params):,} parameters; {len(dataset.train)} training and "
        f"{len(dataset.validation)} validation episodes, {segment_count} segments; mesh {shape}\n"
        f"memory on each device:\n{program.memory_table(parts)}"
    )
    if jax.process_index() == 0:
        (epath.Path(config.workdir) / "sharding.txt").write_text(sharding.table(compiled.state.params))
    program.check_memory(parts, jax.local_devices()[0])


def load_data(config: Any, action: ActionSpec, observation: ObservationSpec, dt: Mapping[str, float]):
    """The dataset, its training and validation segments, and the assets that a checkpoint needs.

    Statistics come from the training episodes that `config.data.episodes` keeps, or, with `config.train.init_from`, from that run.
    """
    dataset = data_episodes.load(
        config.data.path,
        keep=config.data.episodes,
        validation_fraction=config.data.validation_fraction,
        q_range=config.value_range,
        discount=config.discount,
        dt_ref=config.dt_ref,
    )
    first = dataset.train[0]
    if tuple(sorted(first.images)) != tuple(sorted(observation.cameras)) or first.state.shape[1] != observation.state_dim:
        raise UserError(
            f"{config.data.path} has cameras {sorted(first.images)} and a state of {first.state.shape[1]}, config.env asks for "
            f"{sorted(observation.cameras)} and {observation.state_dim}; collect again or change config.env."
        )
    for name, frames in first.images.items():
        size = segments.decode(frames[0]).shape[:2]
        if size != observation.image_size:
            raise UserError(
                f"{config.data.path} has images {name!r} of {size[0]}x{size[1]}, config.env.image_size asks for "
                f"{observation.image_size[0]}x{observation.image_size[1]}; collect again or change config.env."
            )
    if first.actions.shape[1] != action.dims:
        raise UserError(f"{config.data.path} has actions of {first.actions.shape[1]} dims, config.env's action has {action.dims}.")
    for episode in dataset.train:
        if episode.task not in dt:
            raise UserError(
                f"{config.data.path} holds episodes of {episode.task}, config.env.tasks={config.env.tasks} does not; name it there or give "
                "other data."
            )
        if not math.isclose(episode.dt, dt[episode.task], rel_tol=1e-4):
            raise UserError(
                f"{config.data.path} holds each action of {episode.task} for {episode.dt:g} s, config.env.action_repeat for "
                f"{dt[episode.task]:g} s; collect again or change config.env."
            )
    if config.train.init_from:  # what its parameters expect; the new data's own would shift their inputs
        origin = config.workdir if checkpoints.exists(config.workdir) else config.train.init_from
        statistics = checkpoints.load_assets(origin).statistics
    else:
        statistics = StateStatistics.of(np.concatenate([episode.state for episode in dataset.train]))
    cutting = segments.Cutting(config.data.segment_length, config.model.window, config.agent.get("n_step", 1))
    source, validation = (
        segments.SegmentSource(
            part, cutting, action, statistics, discount=config.discount, dt_ref=config.dt_ref, q_min=config.value_range[0]
        )
        for part in (dataset.train, dataset.validation)
    )
    assets = checkpoints.Assets(
        action,
        observation,
        statistics,
        dataset.text_encoder,
        first.embedding.size,
        checkpoints.plain_config(config),
        dataset.fingerprint,
        dataset.success,
    )
    return dataset, source, validation, assets


def _initial_state(config: Any, network: Network, compiled: program.Program, assets: checkpoints.Assets) -> TrainState:
    state = compiled.init(config, network)
    if not config.train.init_from:
        return state
    params, source, step = checkpoints.load_params(config.train.init_from, like=compiled.state.params)
    for name in ("action", "text_encoder"):
        if getattr(source, name) != getattr(assets, name):
            raise UserError(
                f"config.train.init_from={config.train.init_from} was trained with another {name} ({getattr(source, name)}) than this run "
                f"({getattr(assets, name)}); start from a run with the same."
            )
    _tell(f"parameters from {config.train.init_from}, step {step}")
    target = jax.tree.map(lambda x: x.copy(), params) if state.target_params else {}
    return TrainState(state.step, params, target, state.opt_state)


def validate_on(
    source: segments.SegmentSource, validation_fn: Any, state: TrainState, device_mesh: jax.sharding.Mesh, batch_size: int
) -> dict[str, float]:
    """Means over validation transitions, and the AUC of the first step's value against success where the agent has values."""
    stride = -(-len(source) // (MAX_VALIDATION_BATCHES * batch_size))
    indices = list(range(0, len(source), stride))
    rows = mesh.local_rows(device_mesh, batch_size)
    outputs = []
    for local in loader.validation_batches(source, rows=rows, batch_size=batch_size, indices=indices):
        outputs.append(jax.device_get(validation_fn(state, mesh.put_batch(local, device_mesh, batch_size))))
    totals = jax.tree.map(lambda *leaves: sum(map(float, leaves)), *(output["sums"] for output in outputs))
    result = {f"validation/{name}": total / max(count, 1.0) for name, (total, count) in totals.items()}
    if "firsts" in outputs[0]:
        firsts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(output["firsts"] for output in outputs))
        values, success = firsts["value"][firsts["is_first"]], firsts["success"][firsts["is_first"]]
        if success.any() and not success.all():
            rank = mannwhitneyu(values[success], values[~success]).statistic
            result["validation/auc_first_q"] = float(rank / (success.sum() * (~success).sum()))
    return result
