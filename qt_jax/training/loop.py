"""The training loop, top to bottom."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy.stats import mannwhitneyu

from qt_jax.data import loader
from qt_jax.data.order import Draw
from qt_jax.data.skips import Skips
from qt_jax.data.tables import Entry
from qt_jax.errors import Preempted, UserError
from qt_jax.models.q_transformer import Network, parameter_count
from qt_jax.training import checkpoints, chips, inputs, mesh, metrics, program, provenance, sharding, tracking
from qt_jax.training.config import validate
from qt_jax.training.peers import Peers, meet
from qt_jax.training.preemption import Preemption
from qt_jax.training.profiler import Profiler
from qt_jax.training.state import TrainState, validation_step
from qt_jax.training.watchdog import Watchdog

MAX_VALIDATION_BATCHES = 32
SHOWN = ("train/loss", "train/grad_norm", "steps_per_s", "data_wait_share", "mfu", "goodput")


def train(config: Any, entries: Sequence[Entry], peers: Peers) -> TrainState:
    """Trains on these datasets to `config.train.steps`, from the latest checkpoint in `config.workdir` if there is one.

    Raises:
        UserError: for a bad config, bad data, a checkpoint of another config, or a loss that is not finite.
    """
    validate(config, jax.device_count())
    _use_compilation_cache(config.train.compilation_cache)
    device_mesh, batch_size = mesh.make_mesh(config.mesh), config.data.batch_size
    config, recipe, assets = inputs.load(config, entries)
    network = Network.create(config.model, assets.action, assets.observation, assets.instruction_dim)
    checkpointer = checkpoints.Checkpointer(config.workdir, config.train)
    born = metrics.first_start(config.workdir)
    # Before the compilation, which may take minutes: all that can be refused.
    checkpointer.check_same_run(assets)
    provenance.record(config)
    tracker = tracking.Tracker(config, born) if config.train.wandb and jax.process_index() == 0 else None
    iterator = loader.TrainingIterator(
        recipe,
        batch_size=batch_size,
        threads=config.data.read_threads,
        workers=config.data.workers,
        shuffle_episodes=config.data.shuffle_episodes,
        memory=config.data.memory_mib * 2**20,
        rows=mesh.local_rows(device_mesh, batch_size),
    )
    compiled = program.build(config, network, device_mesh)
    _announce(config, compiled, recipe, iterator)
    validation = loader.validation_draws(recipe, MAX_VALIDATION_BATCHES * batch_size)
    validation_fn = jax.jit(functools.partial(validation_step, config, network), out_shardings=mesh.replicated(device_mesh))
    productive_s = 0.0
    if checkpointer.latest_step is None:
        state = _initial_state(config, network, compiled, assets)
    else:
        state, position, clock = checkpointer.restore(compiled.state)
        iterator.set_state(position)
        productive_s = clock["productive_s"]
        finished = ": nothing is left to do" if int(state.step) >= config.train.steps else ""
        _tell(f"resumed from step {int(state.step)} of {config.train.steps}{finished}")
    start, steps = int(state.step), config.train.steps
    meter = metrics.Meter(
        born, productive_s, program.step_flops(config, network, compiled.state, compiled.batch), chips.total_peak(device_mesh)
    )
    meet("first step", config.distributed.start_timeout_s)
    writer, dog = metrics.MetricWriter(config.workdir, start, tracker), Watchdog(config.train.step_timeout_s, peers)
    profiler = Profiler(config.workdir, config.train.profile_start, config.train.profile_steps)
    try:
        with Preemption() as preemption:
            pending: dict[str, jax.Array] = {}
            measured: dict[str, float] = {}
            for step in range(start + 1, steps + 1):
                profiler.before(step)
                final = step == steps
                with meter.step():
                    peers.doing = f"reading the data of step {step}"
                    with meter.data_wait():
                        local = next(iterator)
                    peers.doing = f"step {step}"
                    batch = mesh.put_batch(local, device_mesh, batch_size)
                    previous, (state, pending) = pending, compiled.step(state, batch)
                    # The check lags one step behind, so that the device never waits for it; before a save it is up to date.
                    metrics.check_finite(step - 1, jax.device_get(previous))
                    values = jax.device_get(pending) if step % config.train.log_every == 0 or final else {}
                leaving = preemption.due(step)
                peers.doing = f"validation or saving after step {step}"
                if values:
                    metrics.check_finite(step, values)
                    values = {f"train/{k}": float(v) for k, v in values.items()} | meter.read(float(values["transitions"]))
                    values["read_amplification"] = iterator.read_amplification()
                    values["skipped_episodes"] = iterator.skips.count
                    writer.write(step, values)
                    metrics.progress(step, steps, {name: values[name] for name in SHOWN})
                if (step % config.train.validate_every == 0 or final) and validation:
                    measured = validate_on(
                        recipe, validation, validation_fn, state, device_mesh, batch_size, iterator.skips
                    )
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


def _announce(
    config: Any, compiled: program.Program, recipe: loader.Recipe, iterator: loader.TrainingIterator
) -> None:
    """What will run, and where everything lies; the whole table of shardings goes into the run's directory.

    Raises:
        UserError: if a device has too little memory.
    """
    shape = " x ".join(f"{axis} {size}" for axis, size in compiled.mesh.shape.items())
    parts = program.memory(compiled)
    _tell(
        f"{inputs.describe(recipe)}\n{iterator.memory_notice()}"
        f"{config.agent.name}: {parameter_count(compiled.state.params):,} parameters; "
        f"{iterator.segments} segments an epoch; mesh {shape}\n"
        f"memory on each device:\n{program.memory_table(parts)}"
    )
    if jax.process_index() == 0:
        (epath.Path(config.workdir) / "sharding.txt").write_text(sharding.table(compiled.state.params))
    program.check_memory(parts, jax.local_devices()[0])


def _initial_state(config: Any, network: Network, compiled: program.Program, assets: checkpoints.Assets) -> TrainState:
    state = compiled.init(config, network)
    if not config.train.init_from:
        return state
    params, source, step = checkpoints.load_params(config.train.init_from, like=compiled.state.params)
    differing = {name: (getattr(source, name), getattr(assets, name)) for name in ("action", "text_encoder")}
    shared = set(source.datasets) & set(assets.datasets)
    differing |= {f"action of {name}": (source.datasets[name].action, assets.datasets[name].action) for name in sorted(shared)}
    for name, (before, now) in differing.items():
        if before != now:
            raise UserError(
                f"config.train.init_from={config.train.init_from} was trained with another {name} ({before}) than this run ({now}); start "
                "from a run with the same."
            )
    _tell(f"parameters from {config.train.init_from}, step {step}")
    target = jax.tree.map(lambda x: x.copy(), params) if state.target_params else {}
    return TrainState(state.step, params, target, state.opt_state)


def validate_on(
    recipe: loader.Recipe,
    draws: list[Draw],
    validation_fn: Any,
    state: TrainState,
    device_mesh: jax.sharding.Mesh,
    batch_size: int,
    skips: Skips,
) -> dict[str, float]:
    """Means over validation transitions, and the AUC of the first step's value against success where the agent has values."""
    rows = mesh.local_rows(device_mesh, batch_size)
    outputs = []
    for local in loader.validation_batches(recipe, draws, rows=rows, batch_size=batch_size, skips=skips):
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
