"""One checkpoint: train_state; params (what is served); data_iterator (the data position); assets; clock (see metrics.Clock).

Saves are asynchronous and atomic: until all hosts have written, the directory has another name, and readers see the step before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

import qt_jax
from qt_jax import agents, specs, storage
from qt_jax.errors import UserError
from qt_jax.models import q_transformer
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.statistics import Statistics
from qt_jax.training.peers import check_barrier
from qt_jax.training.state import TrainState

_FREE = ("workdir", "train", "evaluate", "collect", "mesh", "distributed", "data.path", "data.root", "data.tables", "data.cache",
         "data.read_threads", "data.workers", "data.memory_mib", "data.max_skipped")  # fmt: skip
"""Sections and settings that may differ between a checkpoint's config and the one that resumes it: the data is known by its fingerprint."""


@dataclasses.dataclass(frozen=True)
class DatasetAssets:
    """What a robot of one dataset needs: its own action and observation, statistics of its states (raw) and
    actions, seconds a step, and the return that a policy is told there, if it is told one."""

    action: ActionSpec
    observation: ObservationSpec
    state: Statistics
    actions: Statistics
    dt: float
    told_return: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"action": specs.to_json(self.action), "observation": specs.to_json(self.observation),
                "state": self.state.to_json(), "actions": self.actions.to_json(), "dt": self.dt,
                "told_return": self.told_return}  # fmt: skip

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DatasetAssets:
        return cls(ActionSpec(**value["action"]), ObservationSpec(**value["observation"]), Statistics.from_json(value["state"]),
                   Statistics.from_json(value["actions"]), value["dt"], value.get("told_return"))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Assets:
    """What makes parameters usable: the network's action and observation, each dataset's own, the text encoder, the training's config."""

    action: ActionSpec
    observation: ObservationSpec
    datasets: dict[str, DatasetAssets]
    text_encoder: str
    instruction_dim: int
    config: dict[str, Any]
    data_fingerprint: str
    data: dict[str, Any]
    """Share of successes in the whole dataset, whatever was filtered: {task or "all": {"success", "episodes"}}."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": qt_jax.__version__,
            "action": specs.to_json(self.action),
            "observation": specs.to_json(self.observation),
            "datasets": {name: dataset.to_json() for name, dataset in self.datasets.items()},
            "text_encoder": self.text_encoder,
            "instruction_dim": self.instruction_dim,
            "config": self.config,
            "data_fingerprint": self.data_fingerprint,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: Any) -> Assets:
        missing = {field.name for field in dataclasses.fields(cls)} - set(value)
        if not missing:
            saved = value["config"]
            known = {"agent": agents.get(saved["agent"]["name"]).get_config(), "model": q_transformer.laptop()}
            missing = {f"config.{part}.{name}" for part, settings in known.items() for name in set(settings) - set(saved[part])}
        if missing:
            raise UserError(f"{where}: the checkpoint's assets lack {sorted(missing)}; it was written by another version, train it again.")
        return cls(
            ActionSpec(**value["action"]),
            ObservationSpec(**value["observation"]),
            {name: DatasetAssets.from_json(dataset) for name, dataset in value["datasets"].items()},
            value["text_encoder"],
            value["instruction_dim"],
            value["config"],
            value["data_fingerprint"],
            value["data"],
        )


def frozen_config(values: dict[str, Any]) -> ml_collections.FrozenConfigDict:
    """A config as it was saved: JSON lists are tuples again."""
    as_tuples = lambda v: (
        tuple(map(as_tuples, v)) if isinstance(v, list) else {k: as_tuples(x) for k, x in v.items()} if isinstance(v, dict) else v
    )
    return ml_collections.FrozenConfigDict(as_tuples(values))


def plain_config(config: Any) -> dict[str, Any]:
    """A config as JSON types."""
    return json.loads(config.to_json())


def _directory(workdir: str) -> epath.Path:
    return storage.directory(workdir) / "checkpoints"


class Checkpointer:
    """Saves and restores the checkpoints of one run; keeps the latest `keep_checkpoints` and the best `keep_best` of `config.train`."""

    def __init__(self, workdir: str, settings: Any):
        self._directory, self._best_metric = _directory(workdir), settings.best_metric if settings.keep_best else None
        policies: list[Any] = [managers.LatestN(settings.keep_checkpoints)]
        best = {}
        if self._best_metric:
            value = lambda metrics: metrics[self._best_metric]
            policies.append(
                managers.BestN(get_metric_fn=lambda metrics: -value(metrics), n=settings.keep_best, keep_checkpoints_without_metrics=False)
            )
            best = {"best_fn": value, "best_mode": "min"}
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,  # what a killed save left
            preservation_policy=managers.AnyPreservationPolicy(policies),
            async_options=ocp.AsyncOptions(timeout_secs=settings.save_timeout_s),
            **best,
        )
        with self._written():
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, position: dict, assets: Assets, clock: dict, metrics: dict[str, float]) -> None:
        """Returns as soon as the state is copied; the rest is written beside the next steps.

        Raises:
            UserError: if this or an earlier save could not be written, or `best_metric` was not measured.
        """
        if self._best_metric and self._best_metric not in metrics:
            raise UserError(
                f"config.train.best_metric is {self._best_metric!r}, measured are {sorted(metrics)}; choose one of these or keep_best=0."
            )
        with self._written():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    train_state=ocp.args.StandardSave(state),
                    params=ocp.args.StandardSave(state.params),
                    data_iterator=ocp.args.JsonSave(position),
                    assets=ocp.args.JsonSave(assets.to_json()),
                    clock=ocp.args.JsonSave(clock),
                ),
                metrics={self._best_metric: metrics[self._best_metric]} if self._best_metric else None,
            )

    def check(self) -> None:
        """Raises a UserError if a save under way failed. Call every step."""
        with self._written():
            self._manager.check_for_errors()

    def check_same_run(self, assets: Assets) -> None:
        """Raises a UserError if there is a latest checkpoint and it was made with another config or other data, or cannot be read."""
        step = self.latest_step
        if step is None:
            return
        path = self._directory / str(step)
        saved = _load_assets(self._directory, step)
        refuse_other_config(saved.config, assets.config, path, bound=("config.train.steps",))  # the schedule ends there
        for name in ("data_fingerprint", "datasets"):
            if getattr(saved, name) != getattr(assets, name):
                raise UserError(f"{path} was trained with other {name} than the data gives now: the dataset changed; take another workdir.")

    def restore(self, state: Any) -> tuple[TrainState, dict, dict]:
        """The latest checkpoint into the shapes and shardings of `state` (whatever mesh saved it), the data position and the clock.

        Raises:
            UserError: if it cannot be read.
        """
        step = self.latest_step
        with _readable(self._directory, step):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    train_state=ocp.args.StandardRestore(state), data_iterator=ocp.args.JsonRestore(), clock=ocp.args.JsonRestore()
                ),
            )
        return restored["train_state"], restored["data_iterator"], restored["clock"]

    def wait(self) -> None:
        """For saves under way; raises a UserError if one failed."""
        with self._written():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            check_barrier(error)
            steps = _steps(self._directory)
            last = (
                f"the last complete checkpoint is {self._directory / str(max(steps))}" if steps else "there is no complete checkpoint yet"
            )
            raise UserError(
                f"{self._directory} cannot be written ({_first_line(error)}); free or mount the storage and start again: {last}."
            ) from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _steps(directory: epath.Path) -> list[int]:
    """Steps of the complete checkpoints."""
    try:
        return sorted(ocp.utils.checkpoint_steps(directory)) if directory.exists() else []
    except OSError:
        return []


@contextlib.contextmanager
def _readable(directory: epath.Path, step: int) -> Iterator[None]:
    """A damaged checkpoint is named and the one before offered, never used silently."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        check_barrier(error)
        earlier = [s for s in _steps(directory) if s < step]
        remedy = (
            f"delete or move it to continue from {directory / str(earlier[-1])}"
            if earlier
            else "delete or move it to start from the beginning"
        )
        raise UserError(f"{directory / str(step)} is damaged ({_first_line(error)}); {remedy}.") from error


def exists(workdir: str) -> bool:
    """Whether a run has a complete checkpoint."""
    return bool(_steps(_directory(workdir)))


def latest_step(workdir: str) -> int:
    """The newest complete checkpoint of a run.

    Raises:
        UserError: if there is none.
    """
    directory = _directory(workdir)
    if not exists(workdir):
        raise UserError(f"{directory} holds no checkpoint; run `python -m qt_jax train --config=...` with this config.workdir first.")
    return max(_steps(directory))


def _kept_step(workdir: str, step: int) -> int:
    """`step` if that checkpoint was kept; 0: the latest."""
    latest = latest_step(workdir)
    if step and step not in (kept := _steps(_directory(workdir))):
        raise UserError(f"{_directory(workdir)} holds no checkpoint of step {step}; give one of {kept}, or 0 for the latest.")
    return step or latest


def load_assets(workdir: str, step: int = 0) -> Assets:
    """Assets of a checkpoint below `workdir` (0: the latest).

    Raises:
        UserError: if there is none, or another version wrote it.
    """
    return _load_assets(_directory(workdir), _kept_step(workdir, step))


def _load_assets(directory: epath.Path, step: int) -> Assets:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer, _readable(directory, step):
        return Assets.from_json(checkpointer.restore(directory / str(step) / "assets"), directory / str(step))


def load_params(workdir: str, like: dict | None = None, step: int = 0) -> tuple[dict, Assets, int]:
    """Parameters and assets of a checkpoint below `workdir` (step 0: the latest), without the optimiser; and its step.

    Args:
        like: parameters whose shapes must agree and whose shardings are used (None: as saved, on one device).

    Raises:
        UserError: if there is no checkpoint, it cannot be read, or the shapes differ.
    """
    step = _kept_step(workdir, step)
    assets = load_assets(workdir, step)
    path = _directory(workdir) / str(step)
    with ocp.StandardCheckpointer() as checkpointer, _readable(_directory(workdir), step):
        metadata = checkpointer.metadata(path / "params").item_metadata.tree
        if like is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata)
            return _with_list_keys(checkpointer.restore(path / "params", abstract)), assets, step
        theirs, mine = _shapes(_with_list_keys(metadata)), _shapes(like)
        if theirs != mine:
            name = next(n for n in sorted(set(mine) | set(theirs)) if mine.get(n) != theirs.get(n))
            raise UserError(
                f"{path} has parameter {name} of shape {theirs.get(name)}, this config's network has {mine.get(name)}; "
                "use the config.model and action bins that it was trained with."
            )
        return checkpointer.restore(path / "params", like), assets, step


def _with_list_keys(tree: Any) -> Any:
    """Orbax saves the integer keys of module lists as strings; NNX wants the integers ('10' would sort before '2')."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if isinstance(k, str) and k.isdigit() else k: _with_list_keys(v) for k, v in tree.items()}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def refuse_other_config(
    saved: dict[str, Any], current: dict[str, Any], path: Any, free: tuple[str, ...] = _FREE, bound: tuple[str, ...] = ()
) -> None:
    """Raises a UserError naming the first setting that differs, outside the `free` sections and settings or among the `bound` keys."""

    def flatten(values: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
        flat = {}
        for key, value in values.items():
            flat.update(flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value})
        return flat

    before, now = flatten(saved), flatten(current)
    for key in sorted(set(before) | set(now)):
        section, setting = key.split(".")[1], key.removeprefix("config.")
        relevant = key in bound or not {section, setting} & set(free)
        if relevant and before.get(key) != now.get(key):
            raise UserError(
                f"{path} was made with {key}={before.get(key)!r}, this run has {now.get(key)!r}; give the same value, another "
                "config.workdir, or start from its parameters with config.train.init_from."
            )
