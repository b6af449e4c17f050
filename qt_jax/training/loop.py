"""The training loop, top to bottom."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy.stats import mannwhitneyu

from qt_jax.data import episodes as data_episodes
from qt_jax.data import loader, segments
from qt_jax.errors import UserError
from qt_jax.models.q_transformer import Network, parameter_count
from qt_jax.preprocess import StateStatistics
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training import checkpoints, mesh, metrics
from qt_jax.training.config import validate
from qt_jax.training.state import TrainState, init_state, train_step, validation_step

MAX_VALIDATION_BATCHES = 32
SHOWN = ("train/loss", "train/grad_norm", "steps_per_s", "data_wait_share")


def train(config: Any, action: ActionSpec, observation: ObservationSpec, dt: Mapping[str, float]) -> TrainState:
    """Trains to `config.train.steps`, from the latest checkpoint in `config.workdir` if there is one.

    Args:
        dt: {task: seconds that the environment holds an action}; the data must have held them as long.

    Raises:
        UserError: for a bad config, bad data, a checkpoint of another config, or a loss that is not finite.
    """
    validate(config)
    device_mesh = mesh.make_mesh()
    dataset, source, validation, assets = load_data(config, action, observation, dt)
    network = Network.create(config.model, action, observation, assets.instruction_dim)
    state = jax.device_put(_initial_state(config, network, assets), mesh.replicated(device_mesh))
    iterator = loader.training_iterator(
        source,
        batch_size=config.data.batch_size,
        seed=config.seed,
        read_threads=config.data.read_threads,
        demonstration_share=config.data.demonstration_share,
    )
    checkpointer = checkpoints.Checkpointer(config.workdir, config.train.keep_checkpoints)
    writer = metrics.MetricWriter(config.workdir, checkpointer.latest_step or 0)
    print(
        f"{config.agent.name}: {parameter_count(state.params):,} parameters; {len(dataset.train)} training and "
        f"{len(dataset.validation)} validation episodes, {len(source)} segments"
    )

    replicated, split = mesh.replicated(device_mesh), mesh.batch_sharding(device_mesh)
    step_fn = jax.jit(
        functools.partial(train_step, config, network), in_shardings=(replicated, split), out_shardings=replicated, donate_argnums=0
    )
    validation_fn = jax.jit(functools.partial(validation_step, config, network))
    try:
        if checkpointer.latest_step is not None:
            state = checkpointer.restore(state, iterator, assets)
            print(f"resumed from step {int(state.step)}")
        pending: dict[str, jax.Array] = {}
        meter = _Meter(int(state.step))
        for step in range(int(state.step) + 1, config.train.steps + 1):
            with meter.data_wait():
                batch = mesh.put_batch(loader.to_segment(next(iterator)), device_mesh)
            previous, (state, pending) = pending, step_fn(state, batch)
            # The check lags one step behind, so that the device never waits for it; before a save it is up to date.
            metrics.check_finite(step - 1, jax.device_get(previous))
            final = step == config.train.steps
            if step % config.train.log_every == 0 or final:
                values = jax.device_get(pending)
                metrics.check_finite(step, values)
                values = {f"train/{k}": float(v) for k, v in values.items()} | meter.read(step, float(values["transitions"]))
                writer.write(step, values)
                metrics.progress(step, config.train.steps, {name: values[name] for name in SHOWN})
            if (step % config.train.validate_every == 0 or final) and len(validation):
                writer.write(step, validate_on(validation, validation_fn, state, config.data.batch_size))
                meter.restart(step)
            if step % config.train.checkpoint_every == 0 or final:  # last: a run that resumes here has all metrics up to here
                metrics.check_finite(step, jax.device_get(pending))
                checkpointer.save(state, iterator, assets)
    finally:
        checkpointer.close()
        writer.close()
        iterator.close()
    return state


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
        if not math.isclose(episode.dt, dt.get(episode.task, episode.dt), rel_tol=1e-4):
            raise UserError(
                f"{config.data.path} holds each action of {episode.task} for {episode.dt:g} s, config.env.action_repeat for "
                f"{dt[episode.task]:g} s; collect again or change config.env."
            )
    if config.train.init_from:  # what its parameters expect; the new data's own would shift their inputs
        origin = config.workdir if checkpoints.exists(config.workdir) else config.train.init_from
        statistics = checkpoints.latest_assets(origin).statistics
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


def _initial_state(config: Any, network: Network, assets: checkpoints.Assets) -> TrainState:
    state = init_state(config, network)
    if not config.train.init_from or checkpoints.exists(config.workdir):
        return state
    params, source, step = checkpoints.load_params(config.train.init_from, like=state.params)
    for name in ("action", "text_encoder"):
        if getattr(source, name) != getattr(assets, name):
            raise UserError(
                f"config.train.init_from={config.train.init_from} was trained with another {name} ({getattr(source, name)}) than this run "
                f"({getattr(assets, name)}); start from a run with the same."
            )
    print(f"parameters from {config.train.init_from}, step {step}")
    target = jax.tree.map(lambda x: x.copy(), params) if state.target_params else {}
    return TrainState(state.step, params, target, state.opt_state)


def validate_on(source: segments.SegmentSource, validation_fn: Any, state: TrainState, batch_size: int) -> dict[str, float]:
    """Means over validation transitions, and the AUC of the first step's value against success where the agent has values."""
    sums: dict[str, float] = {}
    stride = -(-len(source) // (MAX_VALIDATION_BATCHES * batch_size))
    indices = list(range(0, len(source), stride))
    firsts, outcomes = [], []
    for batch in loader.validation_batches(source, batch_size=batch_size, indices=indices):
        values = jax.device_get(validation_fn(state, batch))
        first_values = values.pop("first_step_values", None)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value) * (1.0 if name == "transitions" else float(values["transitions"]))
        if first_values is not None:
            starts = batch.is_first[:, 0]
            firsts.extend(first_values[starts])
            outcomes.extend(batch.success[starts])
    count = max(sums.pop("transitions"), 1.0)
    result = {f"validation/{name}": value / count for name, value in sums.items()}
    firsts, outcomes = np.asarray(firsts), np.asarray(outcomes, bool)
    if outcomes.any() and not outcomes.all():
        positives, negatives = firsts[outcomes], firsts[~outcomes]
        result["validation/auc_first_q"] = float(mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives)))
    return result


class _Meter:
    """Steps/s, transitions/s and the share of time spent waiting for data, since the last reading (the first includes compilation)."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._start, self._waited = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def data_wait(self):
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def read(self, step: int, transitions: float) -> dict[str, float]:
        elapsed = time.perf_counter() - self._start
        rate = (step - self._step) / elapsed
        values = {"steps_per_s": rate, "transitions_per_s": rate * transitions, "data_wait_share": self._waited / elapsed}
        self.restart(step)
        return values
