"""Episodes -> a real RLDS dataset, through TFDS, in this process or as an Apache Beam pipeline.

The last record of each episode holds o_T: its action, reward and discount mean nothing (zeros), as the RLDS
text has it. TFDS writes into `VERSION.incomplete...` and renames at the end, so an interrupted collection
leaves nothing that reads as a dataset.

An episode is any object with the fields of `envs.collectors.Episode`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from qt_jax import text
from qt_jax.curation.rlds_names import import_rlds
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

FILE_FORMATS = ("tfrecord", "array_record")
RUNNERS = ("local", "beam")
VERSION = "1.0.0"
MAX_RECORD = 2**31 - 1
"""Bytes of an episode: a protocol buffer holds no more."""


def write(
    path: str,
    episodes: Iterable[Any],
    *,
    action: ActionSpec,
    observation: ObservationSpec,
    description: str,
    file_format: str,
    reward: str = "success",
) -> epath.Path:
    """Writes `episodes` as the RLDS dataset `path`/1.0.0 and returns that directory.

    The dataset's metadata.json says, under "action", the names and bounds of its dims, and `reward`.

    Args:
        reward: what `DatasetSpec.reward` is to be when the dataset describes itself.

    Raises:
        UserError: for an unknown file format, or when `path` already holds a dataset.

    """
    target = _Target(path, action, observation, description, file_format, reward)
    return _prepare(target, lambda: ((index, _example(episode)) for index, episode in enumerate(episodes)))


def check_free(path: str) -> epath.Path:
    """Raises UserError if a dataset is there already."""
    place = epath.Path(path)
    if (place / VERSION).exists():
        raise UserError(f"{place / VERSION} already holds a dataset; delete it or choose another path.")
    return place


def check_size(name: str, size: float) -> None:
    """Raises UserError for an episode of more bytes, known or expected, than a record holds."""
    if size > MAX_RECORD:
        raise UserError(
            f"{name} comes to {size / 2**30:.3g} GiB, expected at most {MAX_RECORD / 2**30:.3g} GiB, all that "
            "a record holds; give smaller images (--image_size), fewer cameras (--cameras), or shorter episodes."
        )


def check_runner(runner: str) -> None:
    """Raises UserError for an unknown runner, or when Beam is asked for and not installed."""
    if runner not in RUNNERS:
        raise UserError(f"runner is {runner!r}; expected one of {RUNNERS}.")
    if runner == "beam" and importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "runner is 'beam' and Apache Beam is not installed; run `pip install 'qt_jax[data,beam]'`."
        )


def write_with_beam(
    path: str,
    units: Sequence[Any],
    read: Callable[[Any], Iterable[tuple[int, Any]]],
    *,
    options: Sequence[str],
    action: ActionSpec,
    observation: ObservationSpec,
    description: str,
    file_format: str,
    reward: str = "success",
) -> epath.Path:
    """As `write`, by Beam workers: each gets some of `units` and writes what `read` makes of them, (index,
    episode) pairs.

    The order of the dataset is that of the indices, whatever the runner. `units` and `read` are pickled.

    Args:
        options: Beam's own, such as "--runner=DataflowRunner".

    Raises:
        UserError: also what `read` raised on another machine.

    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    target = _Target(path, action, observation, description, file_format, reward)

    def pipeline():
        return (
            beam.Create(list(units)) | beam.Reshuffle() | beam.FlatMap(_examples, read)
        )  # Reshuffle: else one worker gets all

    try:
        return _prepare(target, pipeline, beam_options=PipelineOptions(list(options)))
    except Exception as error:  # of what a worker raised Beam hands on the text alone
        if str(error).startswith("KeyboardInterrupt"):
            raise KeyboardInterrupt from error
        if told := re.search(
            r"UserError: (.*?)(?: \[while running|$)", f"{type(error).__name__}: {error}", re.MULTILINE
        ):
            raise UserError(told[1]) from error
        raise


def _examples(
    unit: Any, read: Callable[[Any], Iterable[tuple[int, Any]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, episode in read(unit):
        yield index, _example(episode)


@dataclasses.dataclass(frozen=True)
class _Target:
    path: str
    action: ActionSpec
    observation: ObservationSpec
    description: str
    file_format: str
    reward: str


def _prepare(target: _Target, generate: Callable[[], Any], **beam: Any) -> epath.Path:
    if target.file_format not in FILE_FORMATS:
        raise UserError(f"file_format is {target.file_format!r}; expected one of {FILE_FORMATS}.")
    path = check_free(target.path)
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # the door shows its own
    with tfds.core.registered.skip_registration():
        builder = _builder(tfds, target, generate)
    builder(data_dir=str(path.parent), file_format=target.file_format).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, **beam)
    )
    return path / VERSION


def _features(tfds: Any, rlds: Any, action: ActionSpec, observation: ObservationSpec):
    features = tfds.features
    entries: dict[str, Any] = {
        name: features.Image(
            shape=(*observation.image_size, 3), encoding_format="jpeg", doc=f"Camera {name!r}."
        )
        for name in observation.cameras
    }
    if observation.state_dim:
        entries["state"] = features.Tensor(
            shape=(observation.state_dim,), dtype=np.float32, doc=observation.state_description
        )
    return features.FeaturesDict(
        {
            rlds.STEPS: features.Dataset(
                {
                    rlds.OBSERVATION: features.FeaturesDict(entries),
                    rlds.ACTION: features.Tensor(
                        shape=(action.dims,), dtype=np.float32, doc=", ".join(action.names)
                    ),
                    rlds.REWARD: features.Scalar(
                        np.float32, doc="Of this transition; by default 1 where it succeeds, else 0."
                    ),
                    rlds.DISCOUNT: features.Scalar(
                        np.float32, doc="0 at the transition that terminates, else 1."
                    ),
                    rlds.IS_FIRST: features.Scalar(np.bool_),
                    rlds.IS_LAST: features.Scalar(np.bool_),
                    rlds.IS_TERMINAL: features.Scalar(np.bool_),
                }
            ),
            "episode_id": features.Text(doc="task/collector/index"),
            "task": features.Text(),
            "collector": features.Text(doc="demonstration, or the kind of autonomous failure"),
            "instruction": features.Text(),
            "instruction_embedding": features.Tensor(shape=(text.DIM,), dtype=np.float32, doc=text.ENCODER),
            "success": features.Scalar(np.bool_),
            "dt": features.Scalar(np.float32, doc="Seconds that each action was held."),
        }
    )


def _builder(tfds: Any, target: _Target, generate: Callable[[], Any]):
    action = target.action

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = epath.Path(target.path).name

        def _info(self):
            return self.dataset_info_from_configs(
                description=target.description,
                features=_features(tfds, import_rlds(), action, target.observation),
                metadata=tfds.core.MetadataDict(
                    action={
                        "names": list(action.names),
                        "low": [float(x) for x in action.low],
                        "high": [float(x) for x in action.high],
                    },
                    reward=target.reward,
                ),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            return generate()

    return Builder


def _example(episode: Any) -> dict[str, Any]:
    plan = episode.plan
    identity = f"{plan.task}/{plan.collector}/{plan.index:06d}"
    pixels = sum(len(frame) for frames in episode.images.values() for frame in frames)
    check_size(f"Episode {identity}", pixels + episode.state.nbytes + episode.actions.nbytes)
    rlds = import_rlds()
    return {
        rlds.STEPS: list(_steps(rlds, episode)),
        "episode_id": identity,
        "task": plan.task,
        "collector": plan.collector,
        "instruction": episode.instruction,
        "instruction_embedding": text.embed(episode.instruction),
        "success": episode.success,
        "dt": episode.dt,
    }


def _steps(rlds: Any, episode: Any) -> Iterator[dict[str, Any]]:
    length = len(episode.actions)
    for t in range(length + 1):
        ended = t == length
        observation: dict[str, Any] = {name: io.BytesIO(frames[t]) for name, frames in episode.images.items()}
        if episode.state.shape[-1]:
            observation["state"] = episode.state[t]
        yield {
            rlds.OBSERVATION: observation,
            rlds.ACTION: np.zeros_like(episode.actions[0]) if ended else episode.actions[t],
            rlds.REWARD: np.float32(0.0 if ended else episode.rewards[t]),
            rlds.DISCOUNT: np.float32(0.0 if episode.success and t >= length - 1 else 1.0),
            rlds.IS_FIRST: t == 0,
            rlds.IS_LAST: ended,
            rlds.IS_TERMINAL: ended and episode.success,
        }
