"""Episodes -> a real RLDS dataset, through TFDS.

The last record of each episode holds o_T: its action, reward and discount mean nothing (zeros), as the RLDS text has it. TFDS
writes into `VERSION.incomplete...` and renames at the end, so an interrupted collection leaves nothing that reads as a dataset.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath

from qt_jax import text
from qt_jax.data.rlds_names import import_rlds
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

FILE_FORMATS = {"tfrecord": "tfrecord", "array_record": "array_record"}
VERSION = "1.0.0"


def write(
    path: str,
    episodes: Iterable[Any],
    *,
    action: ActionSpec,
    observation: ObservationSpec,
    description: str,
    file_format: str,
) -> epath.Path:
    """Writes `episodes` (envs.collectors.Episode) as the RLDS dataset `path`/1.0.0 and returns that directory.

    Raises:
        UserError: for an unknown file format, or when `path` already holds a dataset.
    """
    if file_format not in FILE_FORMATS:
        raise UserError(f"config.collect.file_format is {file_format!r}; expected one of {sorted(FILE_FORMATS)}.")
    target = epath.Path(path)
    if (target / VERSION).exists():
        raise UserError(f"{target / VERSION} already holds a dataset; delete it or choose another config.data.path.")
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # the door shows its own
    rlds = import_rlds()
    with tfds.core.registered.skip_registration():
        builder = _builder(tfds, rlds, target, episodes, action, observation, description)
    builder(data_dir=str(target.parent), file_format=FILE_FORMATS[file_format]).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return target / VERSION


def _features(tfds: Any, rlds: Any, action: ActionSpec, observation: ObservationSpec):
    features = tfds.features
    entries: dict[str, Any] = {
        name: features.Image(shape=(*observation.image_size, 3), encoding_format="jpeg", doc=f"Camera {name!r}.")
        for name in observation.cameras
    }
    if observation.state_dim:
        entries["state"] = features.Tensor(shape=(observation.state_dim,), dtype=np.float32, doc=observation.state_description)
    return features.FeaturesDict(
        {
            rlds.STEPS: features.Dataset(
                {
                    rlds.OBSERVATION: features.FeaturesDict(entries),
                    rlds.ACTION: features.Tensor(shape=(action.dims,), dtype=np.float32, doc=", ".join(action.names)),
                    rlds.REWARD: features.Scalar(np.float32, doc="1 at the transition that succeeds, else 0."),
                    rlds.DISCOUNT: features.Scalar(np.float32, doc="0 at the transition that terminates, else 1."),
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


def _builder(
    tfds: Any, rlds: Any, target: epath.Path, episodes: Iterable[Any], action: ActionSpec, observation: ObservationSpec, text_: str
):
    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = target.name

        def _info(self):
            return self.dataset_info_from_configs(
                description=text_,
                features=_features(tfds, rlds, action, observation),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, episode in enumerate(episodes):
                yield index, _example(rlds, episode)

    return Builder


def _example(rlds: Any, episode: Any) -> dict[str, Any]:
    plan = episode.plan
    return {
        rlds.STEPS: list(_steps(rlds, episode)),
        "episode_id": f"{plan.task}/{plan.collector}/{plan.index:06d}",
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
