"""The training loop, top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from qt_jax import agents, storage
from qt_jax.data import loader
from qt_jax.data.tables import Entry
from qt_jax.errors import Preempted, UserError
from qt_jax.models import pretrained
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import parameter_count
from qt_jax.models.pretrained import Pretrained
from qt_jax.training import (
    checkpoints,
    chips,
    feature_cache,
    mesh,
    metrics,
    program,
    provenance,
    setup,
    sharding,
    tracking,
)
from qt_jax.training.config import validate
from qt_jax.training.lock import take as take_lock
from qt_jax.training.peers import Peers, meet
from qt_jax.training.preemption import STOPPED, Preemption
from qt_jax.training.profiler import Profiler
from qt_jax.training.state import TrainState, begun_anew, learning_rate
from qt_jax.training.validation import Validation
from qt_jax.training.watchdog import Watchdog

SHOWN = ("train/loss", "train/grad_norm", "steps_per_s", "data_wait_share", "mfu", "goodput")


def train(config: Any, entries: Sequence[Entry], peers: Peers) -> TrainState:
    """Trains to `config.train.steps`, from the latest checkpoint in `config.workdir` if there is one.

    Args:
        config: the experiment's.
        entries: the datasets.
        peers: the other processes of the run.

    Raises:
        UserError: for a bad config, bad data, a checkpoint that this config cannot go on from, another
            training in the same directory, or a loss that is not finite.
        Preempted: SIGTERM or Ctrl-C came, and the run is saved.

    """
    with Preemption(peers) as preemption, contextlib.ExitStack() as closing:
        validate(config, jax.device_count())
        _use_compilation_cache(config.train.compilation_cache)
        device_mesh, batch_size = mesh.make_mesh(config.mesh), config.data.batch_size
        _check_origin(config)
        config, recipe, assets = setup.prepare(config, entries)
        ensemble = agents.make_ensemble(config, assets.interface)

        lock = _closed(closing, take_lock(config.workdir, config.train.lock_wait_s))
        # Before the compilation, which may take minutes: all that can be refused.
        changes = checkpoints.check_same_run(config.workdir, assets)
        checkpointer = _closed(closing, checkpoints.Checkpointer(config.workdir, config.train))
        if config.train.init_from and checkpointer.latest_step is None:
            checkpoints.check_origin(config.train.init_from, ensemble)
        eyes = _eyes(config, ensemble, checkpointer)
        born = metrics.first_start(config.workdir)
        provenance.record(config, changes)
        tracker = tracking.Tracker(config, born) if config.train.wandb and jax.process_index() == 0 else None

        if config.data.cache_features:
            peers.doing = "computing features"
            recipe = feature_cache.add(config, recipe, ensemble, _encoders(config, ensemble, eyes))
        iterator = loader.TrainingIterator(
            recipe,
            batch_size=batch_size,
            threads=config.data.read_threads,
            workers=config.data.workers,
            shuffle_episodes=config.data.shuffle_episodes,
            memory=config.data.memory_mib * 2**20,
            rows=mesh.local_rows(device_mesh, batch_size),
        )
        _closed(closing, iterator)
        compiled = program.build(config, ensemble, device_mesh, fresh=checkpointer.latest_step is None)
        _announce(config, compiled, recipe, iterator)
        validation = Validation.of(config, recipe, ensemble, compiled)

        productive_s = 0.0
        if checkpointer.latest_step is None:
            state = _initial_state(config, ensemble, compiled, eyes)
        else:
            state, position, clock = checkpointer.restore(compiled.with_settings(config))
            iterator.set_state(position)
            productive_s = clock["productive_s"]
            _print(_resumed(int(state.step), config, changes))
        start, steps = int(state.step), config.train.steps
        flops = program.step_flops(config, ensemble, compiled.state, compiled.batch)
        meter = metrics.Meter(born, productive_s, flops, chips.total_peak(device_mesh))
        meet("first step", config.distributed.start_timeout_s)
        writer = _closed(closing, metrics.MetricWriter(config.workdir, start, tracker))
        dog = _closed(closing, Watchdog(config.train.step_timeout_s, peers))
        window = config.train.profile_start, config.train.profile_steps
        profiler = _closed(closing, Profiler(config.workdir, *window))

        preemption.begin()
        pending: dict[str, jax.Array] = {}
        measured: dict[str, float] | None = {}
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
                # The check lags one step, so that the device never waits for it; before a save it is up to
                # date.
                metrics.check_finite(step - 1, jax.device_get(previous))
                values = jax.device_get(pending) if step % config.train.log_every == 0 or final else {}
            leaving = preemption.due(step)

            peers.doing = f"validation or saving after step {step}"
            if values:
                metrics.check_finite(step, values)
                speed = meter.read(float(values["transitions"]))
                values = {f"train/{k}": float(v) for k, v in values.items()} | speed
                values["read_amplification"] = iterator.read_amplification()
                values["skipped_episodes"] = iterator.skips.count
                lock.check()
                writer.write(step, values)
                metrics.progress(step, steps, {name: values[name] for name in SHOWN})

            if validation and (final or (step % config.train.validate_every == 0 and not leaving)):
                stop = preemption.requested if not final else None
                measured = validation.measure(state, iterator.skips, stop)
                if measured is None:
                    leaving = preemption.due(step)
                else:
                    writer.write(step, measured)
            elif leaving:
                measured = None  # of an earlier step: it does not tell how good this one is

            # Last: a run that resumes here has all metrics up to here.
            if step % config.train.checkpoint_every == 0 or final or leaving:
                metrics.check_finite(step, jax.device_get(pending))
                lock.check()
                writer.flush()
                clock = {"productive_s": meter.productive_s}
                checkpointer.save(state, iterator.get_state(), assets, clock, measured)
            checkpointer.check()
            dog.alive(step)
            if leaving and not final:
                checkpointer.wait()
                saved = f"after step {step}, which is saved; the same command continues from there"
                raise Preempted(f"{STOPPED[leaving]} {saved}", leaving)
        checkpointer.wait()  # while the watchdog still looks
    return state


def _closed(closing: contextlib.ExitStack, thing: Any) -> Any:
    """Returns `thing`, which is closed at the end; after an error its own errors are suppressed."""

    def close(kind: Any, *_) -> None:
        with contextlib.suppress(*([Exception] if kind else [])):
            thing.close()

    closing.push(close)
    return thing


def _resumed(step: int, config: Any, changes: dict[str, tuple[Any, Any]]) -> str:
    """Returns a line of where a run continues, and one of the settings that differ from before."""
    finished = ": nothing is left to do" if step >= config.train.steps else ""
    line = f"resumed from step {step} of {config.train.steps}{finished}"
    if not changes:
        return line
    listed = ", ".join(f"{key} {before!r} -> {now!r}" for key, (before, now) in changes.items())
    rate = float(learning_rate(config, step))
    return f"{line}\nwith other settings than before: {listed}; the learning rate is now {rate:.3g}"


def _use_compilation_cache(path: str) -> None:
    """Keeps compiled programs in this folder, or in that of JAX's own variable."""
    path = os.environ.get("JAX_COMPILATION_CACHE_DIR") or path
    if not path:
        return
    folder = epath.Path(path).expanduser()
    if "://" not in path and folder.is_dir():
        for entry in Path(folder).glob("*-cache"):  # JAX writes none anew, and compiles again at each start
            with contextlib.suppress(OSError):
                if not entry.stat().st_size:
                    entry.unlink()
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _print(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _announce(
    config: Any, compiled: program.Program, recipe: loader.Recipe, iterator: loader.TrainingIterator
) -> None:
    """Prints what will run and its memory; the table of shardings goes into the run's directory.

    Raises:
        UserError: if a device has too little memory.

    """
    shape = " x ".join(f"{axis} {size}" for axis, size in compiled.mesh.shape.items())
    parts = program.memory(compiled)
    _print(
        f"{setup.describe(recipe)}\n{iterator.memory_notice()}"
        f"{config.agent.name}: {parameter_count(compiled.state.params):,} parameters; "
        f"{iterator.segments} segments an epoch; mesh {shape}\n"
        f"memory on each device:\n{program.memory_table(parts)}"
    )
    if jax.process_index() == 0:
        path = storage.directory(config.workdir) / "sharding.txt"
        with storage.writing(path):
            storage.replace_text(path, sharding.table(compiled.state.params, config.model.networks))
    program.check_memory(parts, jax.local_devices()[0])


def _check_origin(config: Any) -> None:
    """Raises a UserError if a fresh run starts from what is not there; indexing the data may take hours."""
    if checkpoints.exists(config.workdir):
        return
    origin = config.train.init_from
    if origin and not checkpoints.exists(origin):
        raise UserError(
            f"config.train.init_from is {origin!r}, which holds no checkpoint; give the workdir of a run."
        )
    if config.model.encoder_weights:
        pretrained.of_file(config.model.encoder_weights)


def _eyes(config: Any, ensemble: Ensemble, checkpointer: checkpoints.Checkpointer) -> Pretrained | None:
    """Reads what the image encoders of a fresh run start from; None: random, or another run's parameters."""
    if checkpointer.latest_step is not None or config.train.init_from:
        return None
    found = pretrained.load(ensemble)
    if found is not None:
        _print(found.report)
    return found


def _encoders(config: Any, ensemble: Ensemble, eyes: Pretrained | None) -> dict[str, np.ndarray]:
    """Returns the parameters of one network's frozen encoders, {path: array}."""
    if eyes is not None:
        return eyes.arrays
    origin = config.workdir if checkpoints.exists(config.workdir) else config.train.init_from
    return pretrained.of_encoders(checkpoints.load_params(origin)[0], ensemble.count)


def _initial_state(
    config: Any, ensemble: Ensemble, compiled: program.Program, eyes: Pretrained | None
) -> TrainState:
    state = compiled.init(config)
    if config.train.init_from:
        params, _, step = checkpoints.load_params(config.train.init_from, like=compiled.state.params)
        _print(f"parameters from {config.train.init_from}, step {step}")
    elif eyes is not None:
        params = eyes.put(state.params, ensemble.count)
    else:
        return state
    target = jax.tree.map(lambda x: x.copy(), params) if state.target_params else {}
    state = dataclasses.replace(state, params=params, target_params=target)
    return _kept(config, state, compiled) if config.train.init_keeps else state


def _kept(config: Any, state: TrainState, compiled: program.Program) -> TrainState:
    """Returns the state with what `config.train.init_keeps` takes from the earlier run."""
    keeps = config.train.init_keeps
    before = checkpoints.load_beside_params(config.train.init_from, compiled.state)
    _print(f"kept of {config.train.init_from}: {', '.join(keeps)}")
    return dataclasses.replace(
        state,
        opt_state=begun_anew(before["opt_state"]) if "optimizer" in keeps else state.opt_state,
        target_params=before["target_params"] if "target" in keeps else state.target_params,
    )
