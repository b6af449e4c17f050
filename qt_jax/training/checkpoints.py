"""Checkpoints, each of five items.

params (what is served); train_state (the rest of it); data_iterator (the data position); assets; clock (time
spent training).

Saves are asynchronous and atomic: until all hosts have written, the directory has another name, and readers
see the step before.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from qt_jax import agents, storage
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.training.assets import Assets, frozen_config
from qt_jax.training.checkpoint_errors import list_steps, readable, refuse_other_shapes, written
from qt_jax.training.continuing import refuse_other_config as refuse_other_config
from qt_jax.training.continuing import refuse_to_continue
from qt_jax.training.state import TrainState


def _directory(workdir: str) -> epath.Path:
    return storage.writable(workdir) / "checkpoints"


class Checkpointer:
    """Saves and restores the checkpoints of one run.

    Keeps the latest `keep_checkpoints` and the best `keep_best` of `config.train`.
    """

    def __init__(self, workdir: str, settings: Any):
        self._directory = _directory(workdir)
        self._best_metric: str | None = settings.best_metric if settings.keep_best else None
        policies: list[Any] = [managers.LatestN(settings.keep_checkpoints)]
        best: dict[str, Any] = {}
        if self._best_metric:

            def value(metrics):
                return metrics[self._best_metric]

            policies.append(
                managers.BestN(
                    get_metric_fn=lambda metrics: -value(metrics),
                    n=settings.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
            best = {"best_fn": value, "best_mode": "min"}
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,  # what a killed save left
            preservation_policy=managers.AnyPreservationPolicy(policies),
            async_options=ocp.AsyncOptions(timeout_secs=settings.save_timeout_s),
            **best,
        )
        with written(self._directory):
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def save(
        self, state: TrainState, position: dict, assets: Assets, clock: dict, metrics: dict[str, float] | None
    ) -> None:
        """Saves, and returns as soon as the state is copied; the rest is written during the next steps.

        Args:
            state: of the run.
            position: of the data.
            assets: what makes the parameters usable.
            clock: time spent training.
            metrics: what validation measured; None: it was not due, and the checkpoint can be no best one.

        Raises:
            UserError: if this or an earlier save could not be written, or `best_metric` was not measured.

        """
        measured, best = None, self._best_metric
        if best and metrics is not None:
            if best not in metrics:
                raise UserError(
                    f"config.train.best_metric is {best!r}, measured are {sorted(metrics)}; choose one of "
                    "these, or keep_best=0."
                )
            measured = {best: metrics[best]}
        with written(self._directory):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    train_state=ocp.args.StandardSave(state.beside_params()),
                    data_iterator=ocp.args.JsonSave(position),
                    assets=ocp.args.JsonSave(assets.to_json()),
                    clock=ocp.args.JsonSave(clock),
                ),
                metrics=measured,
            )

    def check(self) -> None:
        """Raises a UserError if a save under way failed. Call every step."""
        with written(self._directory):
            self._manager.check_for_errors()

    def restore(self, state: Any) -> tuple[TrainState, dict, dict]:
        """Reads the latest checkpoint, of which there must be one, whatever mesh saved it.

        Returns:
            The train state in the shapes and shardings of `state`, the data position and the clock.

        Raises:
            UserError: if it cannot be read.

        """
        step, rest = self.latest_step, state.beside_params()
        assert step is not None, "there is no checkpoint"
        path = self._directory / str(step)
        with readable(self._directory, step):
            saved = {"params": _metadata(path / "params"), **_metadata(path / "train_state")}
            refuse_other_shapes(saved, {"params": state.params, **rest}, path)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(state.params),
                    train_state=ocp.args.StandardRestore(rest),
                    data_iterator=ocp.args.JsonRestore(),
                    clock=ocp.args.JsonRestore(),
                ),
            )
        state = dataclasses.replace(state, params=restored["params"], **restored["train_state"])
        return state, restored["data_iterator"], restored["clock"]

    def wait(self) -> None:
        """Waits for saves under way. Raises a UserError if one failed."""
        with written(self._directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and closes."""
        self.wait()
        self._manager.close()


def exists(workdir: str) -> bool:
    """Returns whether a run has a complete checkpoint."""
    return bool(list_steps(_directory(workdir)))


def finished(config: Any) -> bool:
    """Returns whether the run of this config has its last step."""
    return exists(config.workdir) and latest_step(config.workdir) >= config.train.steps


def latest_step(workdir: str) -> int:
    """Returns the step of the newest complete checkpoint of a run.

    Raises:
        UserError: if there is none.

    """
    directory = _directory(workdir)
    if not exists(workdir):
        raise UserError(
            f"{directory} holds no checkpoint; run `python -m qt_jax train --config=...` with this "
            "config.workdir first."
        )
    return max(list_steps(directory))


def _kept_step(workdir: str, step: int) -> int:
    """Returns `step`, or for 0 the latest. Raises a UserError if that checkpoint was not kept."""
    latest = latest_step(workdir)
    if step and step not in (kept := list_steps(_directory(workdir))):
        raise UserError(
            f"{_directory(workdir)} holds no checkpoint of step {step}; give one of {kept}, or 0 for the "
            "latest."
        )
    return step or latest


def load_assets(workdir: str, step: int = 0) -> Assets:
    """Reads the assets of a checkpoint below `workdir` (0: the latest).

    Raises:
        UserError: if there is none, or another version wrote it.

    """
    directory, step = _directory(workdir), _kept_step(workdir, step)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer, readable(directory, step):
        return Assets.from_json(checkpointer.restore(directory / str(step) / "assets"), directory / str(step))


def check_same_run(workdir: str, assets: Assets) -> dict[str, tuple[Any, Any]]:
    """Returns in what the latest checkpoint's config differs: {config.KEY: (before, now)}; {} without one.

    Call before a `Checkpointer` is made, which cleans up in the background.

    Raises:
        UserError: if it was made with other data or a config that cannot go on from it, or cannot be read.

    """
    if not exists(workdir):
        return {}
    step = latest_step(workdir)
    path, saved = _directory(workdir) / str(step), load_assets(workdir, step)
    changes = refuse_to_continue(saved.config, assets.config, step, path)
    for name in ("data_fingerprint", "datasets"):
        if getattr(saved, name) != getattr(assets, name):
            raise UserError(
                f"{path} was trained with other {name} than the data gives now: the dataset changed; take "
                "another workdir.",
                topic="other-settings",
            )
    return changes


def load_params(workdir: str, like: dict | None = None, step: int = 0) -> tuple[dict, Assets, int]:
    """Reads the parameters of a checkpoint, without the optimiser, its assets and its step.

    Args:
        workdir: of the run.
        like: parameters whose shapes must agree and whose shardings are used (None: as saved, on one device).
        step: of the checkpoint; 0: the latest.

    Raises:
        UserError: if there is no checkpoint, it cannot be read, or the shapes differ.

    """
    step = _kept_step(workdir, step)
    assets = load_assets(workdir, step)
    path = _directory(workdir) / str(step)
    with ocp.StandardCheckpointer() as checkpointer, readable(_directory(workdir), step):
        metadata = _metadata(path / "params")
        refuse_other_shapes(metadata, _expected(assets) if like is None else like, path)
        if like is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata
            )
            return _with_list_keys(checkpointer.restore(path / "params", abstract)), assets, step
        return checkpointer.restore(path / "params", like), assets, step


def load_beside_params(workdir: str, like: TrainState) -> dict[str, Any]:
    """Reads what the latest checkpoint holds beside the parameters, as `TrainState.beside_params` names it.

    Args:
        workdir: of the run.
        like: a train state whose shapes must agree and whose shardings are used.

    Raises:
        UserError: if there is no checkpoint, it cannot be read, or the shapes differ.

    """
    step, expected = latest_step(workdir), like.beside_params()
    path = _directory(workdir) / str(step)
    with ocp.StandardCheckpointer() as checkpointer, readable(_directory(workdir), step):
        refuse_other_shapes(_metadata(path / "train_state"), expected, path)
        return checkpointer.restore(path / "train_state", expected)


def check_origin(workdir: str, ensemble: Ensemble) -> None:
    """Raises a UserError if the run of `config.train.init_from` has other parameters than this ensemble."""
    directory, step = _directory(workdir), latest_step(workdir)
    path, expected = directory / str(step), jax.eval_shape(ensemble.init, jax.random.key(0))
    remedy = "Give config.model, config.agent and action bins as there, or another config.train.init_from."
    with readable(directory, step):
        refuse_other_shapes(_metadata(path / "params"), expected, path, remedy)


def _metadata(path: epath.Path) -> Any:
    """Reads the shapes of a saved tree, as Orbax names its entries."""
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(path).item_metadata
    if found is None:  # Orbax does not say why
        json.loads((path / "_METADATA").read_text())
        raise FileNotFoundError(f"{path} has no metadata")
    return found.tree


def _expected(assets: Assets) -> Any:
    """Returns the shapes of the parameters that this version's network has with these assets."""
    ensemble = agents.make_ensemble(frozen_config(assets.config), assets.interface)
    return jax.eval_shape(ensemble.init, jax.random.key(0))


def _with_list_keys(tree: Any) -> Any:
    """Makes integers of the keys of module lists, which Orbax saves as strings ('10' sorts before '2')."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if isinstance(k, str) and k.isdigit() else k: _with_list_keys(v) for k, v in tree.items()}
