"""Recorded episodes -> an RLDS dataset, written by TFDS in this process or by an Apache Beam pipeline.

The last record of each episode holds o_T: its action, reward and discount are zeros without a meaning, as
RLDS defines them (https://github.com/google-research/rlds). TFDS writes into `VERSION.incomplete...` and
renames that at the end, so an interrupted collection leaves nothing that reads as a dataset.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import io
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from qt_jax import storage, text
from qt_jax.curation.rlds_names import import_rlds
from qt_jax.data.recorded import AGE, RecordedEpisode
from qt_jax.errors import UserError
from qt_jax.specs import INTERVENTION, ActionSpec, ObservationSpec

FILE_FORMATS = ("tfrecord", "array_record")
RUNNERS = ("local", "beam")
VERSION = "1.0.0"
MAX_RECORD = 2**31 - 1
"""Bytes of an episode: a protocol buffer holds no more."""

_Read = Callable[[Any], Iterable[tuple[int, RecordedEpisode]]]
"""Makes (index, episode) pairs of a unit of work."""


def write(
    path: str,
    episodes: Iterable[RecordedEpisode],
    *,
    action: ActionSpec,
    observation: ObservationSpec,
    description: str,
    file_format: str,
    reward: str = "success",
    action_space: Mapping[str, Any] | None = None,
    intervention: bool = False,
    validation: Iterable[RecordedEpisode] | None = None,
    extras: Collection[str] = (),
) -> epath.Path:
    """Writes `episodes` as the RLDS dataset `path`/1.0.0 and returns that directory.

    Its metadata.json has the names and bounds of the action's dims under "action", `reward`, and
    `action_space` where there is one.

    Args:
        path: the dataset's directory; its last part is the dataset's name.
        episodes: in the order in which they are written.
        action: names and bounds of the action's dims.
        observation: cameras, their size, and the state vector.
        description: one line about where the episodes come from.
        file_format: one of `FILE_FORMATS`.
        reward: `DatasetSpec.reward` of the dataset when it is opened by its path alone.
        action_space: {name of an action: the entry of the state that it moves, and how}.
        intervention: whether each step says if a person acted; all episodes must say it then.
        validation: episodes of a split of their own; read after the others.
        extras: which of `RecordedEpisode.limited`, `shadow`, `age_ms` (of each step) and `policy` are
            written; its episodes have them then.

    Raises:
        UserError: for an unknown file format, an episode too large for a record or without the flag of
            `intervention`, or when `path` already holds a dataset.
    """
    about = description, file_format, reward, action_space or {}, intervention, extras
    target = _Target(path, action, observation, *about)
    splits = {"train": episodes} | ({} if validation is None else {"validation": validation})
    example = functools.partial(_example, intervention=intervention)
    generate = {name: functools.partial(_examples_of, split, example) for name, split in splits.items()}
    return _prepare(target, generate)


def check_free(path: str) -> epath.Path:
    """Returns the path; raises UserError if a dataset is there already."""
    place = storage.writable(path)
    if (place / VERSION).exists():
        raise UserError(
            f"{place / VERSION} already holds a dataset; delete it or choose another path.",
            topic="output-exists",
        )
    return place


def remove_unfinished(path: str) -> None:
    """Removes what an interrupted writing left beside the dataset, or where it was to be."""
    for unfinished in storage.writable(path).glob(f"incomplete.*_{VERSION}"):  # TFDS' name for it
        unfinished.rmtree()


def check_size(name: str, size: float) -> None:
    """Raises UserError for an episode of more bytes, known or expected, than a record holds."""
    if size > MAX_RECORD:
        raise UserError(
            f"{name} comes to {size / 2**30:.3g} GiB, expected at most {MAX_RECORD / 2**30:.3g} GiB, all "
            "that a record holds; give smaller images (--image_size), fewer cameras (--cameras), or shorter "
            "episodes."
        )


def check_runner(runner: str) -> None:
    """Raises UserError for an unknown runner, or when Beam is asked for and not installed."""
    if runner not in RUNNERS:
        raise UserError(f"runner is {runner!r}; expected one of {RUNNERS}.")
    if runner == "beam" and importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "runner is 'beam' and Apache Beam is not installed; run `pip install 'qt_jax[data,beam]'`.",
            topic="missing-package",
        )


def write_with_beam(
    path: str,
    units: Sequence[Any],
    read: _Read,
    *,
    options: Sequence[str],
    action: ActionSpec,
    observation: ObservationSpec,
    description: str,
    file_format: str,
    reward: str = "success",
    action_space: Mapping[str, Any] | None = None,
    intervention: bool = False,
    validation: Sequence[Any] | None = None,
) -> epath.Path:
    """Writes a dataset as `write` does, but by Beam workers: each gets some of `units`.

    The episodes are in the order of their indices, whatever the runner.

    Args:
        path: as in `write`, reachable from all workers.
        units: units of work; they are pickled.
        read: makes (index, episode) pairs of a unit; it is pickled.
        options: Beam's own, such as "--runner=DataflowRunner".
        action: as in `write`.
        observation: as in `write`.
        description: as in `write`.
        file_format: as in `write`.
        reward: as in `write`.
        action_space: as in `write`.
        intervention: as in `write`.
        validation: units of work whose episodes are a split of their own.

    Raises:
        UserError: as `write` does, and what `read` raised on another machine.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    about = description, file_format, reward, action_space or {}, intervention
    target = _Target(path, action, observation, *about)
    example = functools.partial(_example, intervention=intervention)

    def pipeline(units):
        # Without the reshuffle one worker gets all units.
        return beam.Create(list(units)) | beam.Reshuffle() | beam.FlatMap(_examples, read, example)

    splits = {"train": units} | ({} if validation is None else {"validation": validation})
    try:
        generate = {name: functools.partial(pipeline, split) for name, split in splits.items()}
        return _prepare(target, generate, beam_options=PipelineOptions(list(options)))
    except Exception as error:  # of a worker's error Beam hands on the text alone
        if str(error).startswith("KeyboardInterrupt"):
            raise KeyboardInterrupt from error
        text = f"{type(error).__name__}: {error}"
        if message := re.search(r"UserError: (.*?)(?: \[while running|$)", text, re.MULTILINE):
            raise UserError(message[1]) from error
        raise


_Example = Callable[[RecordedEpisode], dict[str, Any]]


def _examples_of(
    episodes: Iterable[RecordedEpisode], example: _Example
) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, episode in enumerate(episodes):
        yield index, example(episode)


def _examples(unit: Any, read: _Read, example: _Example) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, episode in read(unit):
        yield index, example(episode)


@dataclasses.dataclass(frozen=True)
class _Target:
    path: str
    action: ActionSpec
    observation: ObservationSpec
    description: str
    file_format: str
    reward: str
    action_space: Mapping[str, Any]
    intervention: bool
    extras: Collection[str] = ()


def _prepare(target: _Target, generate: Mapping[str, Callable[[], Any]], **beam: Any) -> epath.Path:
    """Writes the dataset; `generate`: {split: makes its examples, or their pipeline}."""
    if target.file_format not in FILE_FORMATS:
        raise UserError(f"file_format is {target.file_format!r}; expected one of {FILE_FORMATS}.")
    path = check_free(target.path)
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # the commands show their own
    with tfds.core.registered.skip_registration():
        builder = _builder(tfds, target, generate)
    made = builder(data_dir=str(path.parent), file_format=target.file_format)
    config = tfds.download.DownloadConfig(try_download_gcs=False, **beam)
    with tempfile.TemporaryDirectory() as nothing:  # else TFDS leaves a folder `downloads` beside the dataset
        made.download_and_prepare(download_dir=nothing, download_config=config)
    return path / VERSION


def _features(tfds: Any, rlds: Any, target: _Target):
    action, observation = target.action, target.observation
    features, size = tfds.features, (*observation.image_size, 3)

    def image(camera: str) -> Any:
        return features.Image(shape=size, encoding_format="jpeg", doc=f"Camera {camera!r}.")

    def vector(dims: int, doc: str) -> Any:
        return features.Tensor(shape=(dims,), dtype=np.float32, doc=doc)

    entries = {name: image(name) for name in observation.cameras}
    if observation.state_dim:
        entries["state"] = vector(observation.state_dim, observation.state_description)
    reward = "Of this transition; by default 1 where it succeeds, else 0."
    discount = "0 at the transition that terminates, else 1."
    steps = {
        rlds.OBSERVATION: features.FeaturesDict(entries),
        rlds.ACTION: vector(action.dims, ", ".join(action.names)),
        rlds.REWARD: features.Scalar(np.float32, doc=reward),
        rlds.DISCOUNT: features.Scalar(np.float32, doc=discount),
        rlds.IS_FIRST: features.Scalar(np.bool_),
        rlds.IS_LAST: features.Scalar(np.bool_),
        rlds.IS_TERMINAL: features.Scalar(np.bool_),
    }
    if target.intervention:
        steps[INTERVENTION] = features.Scalar(np.bool_, doc="Whether a person acted.")
    if "limited" in target.extras:
        steps["limited"] = features.Text(doc="Safety limits that altered the action, joined by commas.")
    if "shadow" in target.extras:
        steps["shadow"] = vector(action.dims, "Action of a policy that was not served; NaN: it was late.")
    if AGE in target.extras:
        doc = "Age of the observation when it was decided on, in ms; NaN: not told."
        steps[AGE] = features.Scalar(np.float32, doc=doc)
    own = {"policy": features.Text(doc="Fingerprint of the policy.")} if "policy" in target.extras else {}
    return features.FeaturesDict(
        own
        | {
            rlds.STEPS: features.Dataset(steps),
            "episode_id": features.Text(doc="task/collector/index"),
            "task": features.Text(),
            "collector": features.Text(doc="demonstration, or the kind of autonomous failure"),
            "instruction": features.Text(),
            "instruction_embedding": vector(text.DIM, text.ENCODER),
            "success": features.Scalar(np.bool_),
            "dt": features.Scalar(np.float32, doc="Seconds that each action was held."),
        }
    )


def _builder(tfds: Any, target: _Target, generate: Mapping[str, Callable[[], Any]]):
    action = target.action

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = epath.Path(target.path).name

        def _info(self):
            return self.dataset_info_from_configs(
                description=target.description,
                features=_features(tfds, import_rlds(), target),
                metadata=tfds.core.MetadataDict(
                    action={
                        "names": list(action.names),
                        "low": [float(x) for x in action.low],
                        "high": [float(x) for x in action.high],
                    },
                    reward=target.reward,
                    **({"action_space": dict(target.action_space)} if target.action_space else {}),
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in generate}

        def _generate_examples(self, split):
            return generate[split]()

    return Builder


def _example(episode: RecordedEpisode, intervention: bool = False) -> dict[str, Any]:
    if intervention and episode.intervention is None:
        raise UserError(
            f"Episode {episode.episode_id} does not say at which steps a person acted, others of the dataset "
            "do; write them apart."
        )
    pixels = sum(len(frame) for frames in episode.images.values() for frame in frames)
    size = pixels + episode.state.nbytes + episode.actions.nbytes
    check_size(f"Episode {episode.episode_id}", size)
    rlds = import_rlds()
    own = {} if episode.policy is None else {"policy": episode.policy}
    return own | {
        rlds.STEPS: list(_steps(rlds, episode, intervention)),
        "episode_id": episode.episode_id,
        "task": episode.task,
        "collector": episode.collector,
        "instruction": episode.instruction,
        "instruction_embedding": text.embed(episode.instruction),
        "success": episode.success,
        "dt": episode.dt,
    }


def _steps(rlds: Any, episode: RecordedEpisode, intervention: bool) -> Iterator[dict[str, Any]]:
    length = len(episode.actions)
    for t in range(length + 1):
        ended = t == length
        observation: dict[str, Any] = {name: io.BytesIO(frames[t]) for name, frames in episode.images.items()}
        if episode.state.shape[-1]:
            observation["state"] = episode.state[t]
        acted: dict[str, Any] = {}
        if intervention:
            assert episode.intervention is not None  # `_example` checks it
            acted[INTERVENTION] = not ended and bool(episode.intervention[t])
        if episode.limited is not None:
            acted["limited"] = "" if ended else episode.limited[t]
        if episode.shadow is not None:
            acted["shadow"] = np.full_like(episode.shadow[0], np.nan) if ended else episode.shadow[t]
        if episode.age_ms is not None:
            acted[AGE] = episode.age_ms[t]
        yield acted | {
            rlds.OBSERVATION: observation,
            rlds.ACTION: np.zeros_like(episode.actions[0]) if ended else episode.actions[t],
            rlds.REWARD: np.float32(0.0 if ended else episode.rewards[t]),
            rlds.DISCOUNT: np.float32(0.0 if episode.success and t >= length - 1 else 1.0),
            rlds.IS_FIRST: t == 0,
            rlds.IS_LAST: ended,
            rlds.IS_TERMINAL: ended and episode.success,
        }
