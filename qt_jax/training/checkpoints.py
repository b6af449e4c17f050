"""One checkpoint, four items: train_state; params (what is served); data_iterator; assets."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath

import qt_jax
from qt_jax import specs
from qt_jax.data import loader
from qt_jax.errors import UserError
from qt_jax.preprocess import StateStatistics
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training.state import TrainState

_FREE_SECTIONS = ("workdir", "train", "evaluate", "collect")
"""What may differ between a checkpoint's config and the one that resumes it, except config.train.steps (the schedule depends on it)."""


@dataclasses.dataclass(frozen=True)
class Assets:
    """What makes parameters usable: specs, statistics, the text encoder, the config they were trained with."""

    action: ActionSpec
    observation: ObservationSpec
    statistics: StateStatistics
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
            "statistics": self.statistics.to_json(),
            "text_encoder": self.text_encoder,
            "instruction_dim": self.instruction_dim,
            "config": self.config,
            "data_fingerprint": self.data_fingerprint,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: Any) -> Assets:
        missing = {field.name for field in dataclasses.fields(cls)} - set(value)
        if missing:
            raise UserError(f"{where}: the checkpoint's assets lack {sorted(missing)}; it was written by another version, train it again.")
        return cls(
            ActionSpec(**value["action"]),
            ObservationSpec(**value["observation"]),
            StateStatistics.from_json(value["statistics"]),
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
    return epath.Path(workdir).resolve() / "checkpoints"


class Checkpointer:
    """Saves and restores the checkpoints of one run."""

    def __init__(self, workdir: str, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._directory = _directory(workdir)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, iterator: Any, assets: Assets) -> None:
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                train_state=ocp.args.StandardSave(state),
                params=ocp.args.StandardSave(state.params),
                data_iterator=loader.save_position(iterator),
                assets=ocp.args.JsonSave(assets.to_json()),
            ),
        )

    def restore(self, state: TrainState, iterator: Any, assets: Assets) -> TrainState:
        """The latest checkpoint into the shapes and shardings of `state`, and its data position into `iterator`.

        Raises:
            UserError: if it was made with another config or other data statistics.
        """
        step = self.latest_step
        saved = _load_assets(self._directory, step)
        _refuse_other_config(saved.config, assets.config, self._directory / str(step))
        for name in ("data_fingerprint", "statistics"):
            before, now = getattr(saved, name), getattr(assets, name)
            if before != now:
                raise UserError(
                    f"{self._directory / str(step)} was trained with {name} {before}, the data now gives {now}: the dataset changed; "
                    "choose another config.workdir."
                )
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(train_state=ocp.args.StandardRestore(abstract), data_iterator=loader.restore_position(iterator)),
        )
        return restored["train_state"]

    def close(self) -> None:
        """Waits for saves under way; raises if one failed."""
        self._manager.wait_until_finished()
        self._manager.close()


def exists(workdir: str) -> bool:
    """Whether a run has a complete checkpoint."""
    directory = _directory(workdir)
    return directory.exists() and bool(ocp.utils.checkpoint_steps(directory))


def latest_step(workdir: str) -> int:
    """The newest complete checkpoint of a run.

    Raises:
        UserError: if there is none.
    """
    directory = _directory(workdir)
    if not exists(workdir):
        raise UserError(f"{directory} holds no checkpoint; run `python -m qt_jax train --config=...` with this config.workdir first.")
    return max(ocp.utils.checkpoint_steps(directory))


def latest_assets(workdir: str) -> Assets:
    """Assets of the latest checkpoint below `workdir`.

    Raises:
        UserError: if there is none, or another version wrote it.
    """
    return _load_assets(_directory(workdir), latest_step(workdir))


def _load_assets(directory: epath.Path, step: int) -> Assets:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return Assets.from_json(checkpointer.restore(directory / str(step) / "assets"), directory / str(step))


def load_params(workdir: str, like: dict | None = None) -> tuple[dict, Assets, int]:
    """Parameters and assets of the latest checkpoint below `workdir`, without the optimiser.

    Args:
        like: parameters whose shapes must agree (None: as saved, on one device).

    Raises:
        UserError: if there is no checkpoint, or the shapes differ.
    """
    step, assets = latest_step(workdir), latest_assets(workdir)
    path = _directory(workdir) / str(step)
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(path / "params").item_metadata.tree
        shapes = _with_list_keys(jax.tree.map(lambda x: tuple(x.shape), metadata))
        if like is not None and _named(shapes) != _named(jax.tree.map(lambda x: tuple(x.shape), like)):
            mine, theirs = _named(jax.tree.map(lambda x: tuple(x.shape), like)), _named(shapes)
            name = next(n for n in sorted(set(mine) | set(theirs)) if mine.get(n) != theirs.get(n))
            raise UserError(
                f"{path} has parameter {name} of shape {theirs.get(name)}, this config's network has {mine.get(name)}; "
                "use the config.model and action bins that it was trained with."
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), metadata)
        return _with_list_keys(checkpointer.restore(path / "params", abstract)), assets, step


def _with_list_keys(tree: Any) -> Any:
    """Orbax saves the integer keys of module lists as strings; NNX wants the integers ('10' would sort before '2')."""
    if not isinstance(tree, dict):
        return tree
    return {int(k) if isinstance(k, str) and k.isdigit() else k: _with_list_keys(v) for k, v in tree.items()}


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _refuse_other_config(saved: dict[str, Any], current: dict[str, Any], path: Any) -> None:
    def flatten(values: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
        flat = {}
        for key, value in values.items():
            flat.update(flatten(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value})
        return flat

    relevant = lambda values: (
        flatten({k: v for k, v in values.items() if k not in _FREE_SECTIONS}) | {"config.train.steps": values["train"]["steps"]}
    )
    before, now = relevant(saved), relevant(current)
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{path} was made with {key}={before.get(key)!r}, this run has {now.get(key)!r}; give the same value, another "
                "config.workdir, or start from its parameters with config.train.init_from."
            )
