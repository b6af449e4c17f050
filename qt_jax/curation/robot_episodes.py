"""The labelled episodes of a served policy -> an RLDS dataset: `serve --record`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from etils import epath

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert import images, recording
from qt_jax.data.recorded import LabelledEpisode, RecordedEpisode
from qt_jax.errors import UserError
from qt_jax.specs import POLICY, PolicySpec


def place(path: str) -> Path:
    """Returns the folder where the dataset is to be.

    Raises:
        UserError: if it can be no folder of this machine.
    """
    folder = Path(path).expanduser().resolve()
    if "://" in path or not folder.name or (folder.exists() and not folder.is_dir()):
        raise UserError(f"--record={path} is no folder of this machine; expected a path for the dataset.")
    return folder


def holds_dataset(folder: Path) -> bool:
    """Returns whether a whole dataset is there already."""
    return (folder / rlds_writer.VERSION).exists()


def write(
    folder: Path,
    episodes: Iterable[LabelledEpisode],
    spec: PolicySpec,
    description: str,
    *,
    intervention: bool,
    aged: bool,
) -> epath.Path:
    """Writes the episodes as the dataset `folder`/1.0.0 and returns that directory.

    Its steps are decisions, so its action is all that is executed after one.

    Args:
        folder: what `place` returned.
        episodes: of the policy whose spec is given.
        spec: of the policy that acted.
        description: one line about where the episodes come from.
        intervention: whether the steps are to say if a person acted; where nobody did, they need not.
        aged: whether the steps are to say how old the observation was; where no robot told it, they need not.

    Raises:
        UserError: for an episode without a transition, or with a number that is not finite.
    """
    return rlds_writer.write(
        str(folder),
        _recorded(episodes, spec),
        action=spec.interface.executed,
        observation=spec.interface.observation,
        description=description,
        file_format="array_record",
        intervention=intervention,
        limited=spec.limits is not None,
        aged=aged,
    )


def _recorded(episodes: Iterable[LabelledEpisode], spec: PolicySpec) -> Iterator[RecordedEpisode]:
    size = spec.interface.observation.image_size

    def jpegs(frames: np.ndarray) -> recording.Frames:
        return recording.Frames(
            len(frames), lambda count: (images.jpeg(frame, size, False) for frame in frames[:count])
        )

    for index, labelled in enumerate(episodes):
        recorded = recording.Recording(
            name=f"episode {index}",
            instruction=labelled.instruction,
            frames={name: jpegs(frames) for name, frames in labelled.images.items()},
            state=labelled.state,
            actions=labelled.actions,
            success=labelled.success,
            rewards=None,
            dt=spec.dt * spec.interface.execute,
            intervention=labelled.intervention,
        )
        episode = recording.finish(recorded, index, POLICY)
        limited = None if spec.limits is None else tuple(labelled.limited[: len(episode.actions)].tolist())
        yield dataclasses.replace(
            episode,
            task=labelled.task or episode.task,
            limited=limited,
            age_ms=labelled.age_ms[: len(episode.state)],
        )
