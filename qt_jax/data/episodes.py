"""An RLDS dataset on disk -> episodes in memory, images still encoded. Reads TFRecord and ArrayRecord without TensorFlow."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION


@dataclasses.dataclass(frozen=True)
class Episode:
    """`T` transitions and the observation after them.

    images: {camera: T+1 encoded JPEGs}; state: float32 [T+1, state_dim], raw; actions: float32 [T, D]; rewards: float32 [T];
    terminal: the episode terminated (else it was truncated); dt: seconds that each action was held.
    """

    episode_id: str
    task: str
    collector: str
    instruction: str
    embedding: np.ndarray
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool
    success: bool
    dt: float

    @property
    def length(self) -> int:
        """T, the number of transitions."""
        return len(self.actions)


FILTERS = ("all", "successes", "demonstrations")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """All episodes of one RLDS directory that a filter let through, split for training and validation."""

    path: str
    text_encoder: str
    train: tuple[Episode, ...]
    validation: tuple[Episode, ...]
    fingerprint: str
    """Of the training episodes: changes with their number, order, actions or rewards."""
    success: dict[str, dict[str, float]]
    """{task or "all": {"success": share, "episodes": count}} of the whole directory, whatever the filter."""


def load(path: str, *, keep: str, validation_fraction: float, q_range: tuple[float, float], discount: float, dt_ref: float) -> Dataset:
    """Reads and checks the dataset below `path`.

    An episode belongs to the validation split by a hash of its id, so the split survives filters, order and more data.

    Raises:
        UserError: for a missing, empty or damaged dataset, a NaN, an episode without a transition, or a return outside `q_range`.
    """
    if keep not in FILTERS:
        raise UserError(f"config.data.episodes is {keep!r}; expected one of {FILTERS}.")
    builder = _open(path)
    train, validation, outcomes = [], [], collections.defaultdict(list)
    for index, example in enumerate(_examples(builder, path)):
        episode = _episode(example, path, index)
        _check(episode, path, q_range, discount, dt_ref)
        outcomes["all"].append(episode.success)
        outcomes[episode.task].append(episode.success)
        if (keep == "successes" and not episode.success) or (keep == "demonstrations" and episode.collector != DEMONSTRATION):
            continue
        (validation if _hash_fraction(episode.episode_id) < validation_fraction else train).append(episode)
    if not train:
        raise UserError(f"{path} holds no training episode with config.data.episodes={keep!r}; collect more or loosen the filter.")
    success = {name: {"success": sum(group) / len(group), "episodes": len(group)} for name, group in sorted(outcomes.items())}
    encoder = builder.info.features["instruction_embedding"].doc.desc
    return Dataset(path, encoder or "unknown", tuple(train), tuple(validation), _fingerprint(train), success)


def _fingerprint(episodes: list[Episode]) -> str:
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(episode.episode_id.encode() + episode.actions.tobytes() + episode.rewards.tobytes())
    return digest.hexdigest()[:16]


def _hash_fraction(episode_id: str) -> float:
    return int.from_bytes(hashlib.sha256(episode_id.encode()).digest()[:8], "big") / 2.0**64


def _open(path: str):
    import tensorflow_datasets as tfds

    directory = storage.directory(path)
    try:
        versions = [p for p in directory.glob("*.*.*") if p.is_dir() and tfds.core.Version.is_valid(p.name)]
    except Exception as error:  # a bucket's own: no credentials, no such bucket, no network
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}); mend the access.") from error
    if not versions:
        raise UserError(f"{path} holds no RLDS dataset (no VERSION directory); run `python -m qt_jax collect --config=...` first.")
    newest = max(versions, key=lambda p: tfds.core.Version(p.name))
    try:
        builder = tfds.builder_from_directory(str(newest))
    except Exception as error:
        raise UserError(f"{newest} has no readable metadata ({type(error).__name__}); collect it again.") from error
    if "train" not in builder.info.splits:
        raise UserError(f"{newest} has splits {sorted(builder.info.splits)}, expected 'train'; collect it again.")
    return builder


def _examples(builder: Any, path: str) -> Iterator[dict[str, Any]]:
    import tensorflow_datasets as tfds

    info = builder.info.splits["train"]
    count = 0
    for record in _records(info.filepaths, builder.info.file_format.value, path):
        try:
            yield builder.info.features.deserialize_example_np(record, decoders={"steps": tfds.decode.SkipDecoding()})
        except Exception as error:
            raise UserError(
                f"{path}: episode {count} does not parse ({type(error).__name__}); the file is damaged, collect it again."
            ) from error
        count += 1
    if count != info.num_examples or not count:
        raise UserError(
            f"{path} holds {count} episodes but its metadata says {info.num_examples}; a file is empty or truncated, collect it again."
        )


def _records(files: list[Any], file_format: str, path: str) -> Iterator[bytes]:
    import grain

    for file in files:
        try:
            with _local(epath.Path(file)) as local:
                if file_format == "array_record":
                    source = grain.sources.ArrayRecordDataSource([local])
                    records = (source[i] for i in range(len(source)))
                else:
                    records = iter(grain.experimental.TFRecordIterDataset(local))
                yield from records
        except UserError:
            raise
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0][:200]
            raise UserError(
                f"{path}: {epath.Path(file).name} cannot be read ({first_line}); the file is truncated or damaged, collect it again."
            ) from error


@contextlib.contextmanager
def _local(file: epath.Path) -> Iterator[str]:
    """A path that grain can open: of a file in a bucket, a copy for the time being."""
    if "://" not in str(file):
        yield str(file)
        return
    with tempfile.NamedTemporaryFile() as copy, file.open("rb") as remote:
        shutil.copyfileobj(remote, copy, 16 * 2**20)
        copy.flush()
        yield copy.name


def _episode(example: dict[str, Any], path: str, index: int) -> Episode:
    steps = example["steps"]
    try:
        observation = steps["observation"]
        is_last = np.asarray(steps["is_last"])
        if not (is_last[-1] and is_last.sum() == 1):
            raise UserError(
                f"{path}: episode {index} has is_last at {np.flatnonzero(is_last).tolist()}, expected at its last record alone."
            )
        length = len(is_last) - 1
        state = observation.get("state")
        return Episode(
            episode_id=example["episode_id"].decode(),
            task=example["task"].decode(),
            collector=example["collector"].decode(),
            instruction=example["instruction"].decode(),
            embedding=np.asarray(example["instruction_embedding"], np.float32),
            images={name: list(value) for name, value in observation.items() if name != "state"},
            state=np.zeros((length + 1, 0), np.float32) if state is None else np.asarray(state, np.float32),
            actions=np.asarray(steps["action"], np.float32)[:length],
            rewards=np.asarray(steps["reward"], np.float32)[:length],
            terminal=bool(steps["is_terminal"][-1]),
            success=bool(example["success"]),
            dt=float(example["dt"]),
        )
    except KeyError as error:
        raise UserError(f"{path}: episode {index} has no key {error}; expected the layout that `collect` writes.") from error


def _check(episode: Episode, path: str, q_range: tuple[float, float], discount: float, dt_ref: float) -> None:
    name = f"{path}: episode {episode.episode_id!r}"
    if episode.length == 0:
        raise UserError(f"{name} holds no transition; collect it again.")
    for field in ("rewards", "actions", "state", "embedding"):
        bad = np.argwhere(~np.isfinite(getattr(episode, field)))
        if bad.size:
            raise UserError(f"{name}, step {bad[0][0]}: {field} is not finite; repair the dataset.")
    returns = monte_carlo_returns(episode, discount, dt_ref, q_range[0])
    low, high = q_range
    if returns.min() < low - 1e-6 or returns.max() > high + 1e-6:
        raise UserError(
            f"{name} has returns from {returns.min():.4g} to {returns.max():.4g}, outside config.value_range=({low:g}, {high:g}); "
            "set config.value_range to the least and greatest attainable return."
        )


def monte_carlo_returns(episode: Episode, discount: float, dt_ref: float, q_min: float) -> np.ndarray:
    """MC_t = sum_{j>=t} gamma^{j-t} r_j over the whole episode, float32 [T] (method.md, section 1).

    For a truncated episode it is a lower bound of the value only with gamma^{T-t} q_min added, so that is added. Discounts
    are gamma^(dt/dt_ref) a step.
    """
    gamma = discount ** (episode.dt / dt_ref)
    value = 0.0 if episode.terminal else q_min
    returns = np.empty(episode.length, np.float64)
    for t in range(episode.length - 1, -1, -1):
        value = returns[t] = episode.rewards[t] + gamma * value
    return returns.astype(np.float32)
