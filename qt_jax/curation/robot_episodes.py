"""The labelled episodes of a served policy -> an RLDS dataset: `serve --record`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from etils import epath

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert import images, recording
from qt_jax.data.recorded import AGE, LabelledEpisode, RecordedEpisode
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
    shadow: bool,
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
        shadow: whether they are to say what a shadow policy would have done.
        aged: whether the steps are to say how old the observation was; where no robot told it, they need not.

    Raises:
        UserError: for an episode without a transition, or with a number that is not finite.
    """
    has = {"policy": True, "limited": spec.limits is not None, "shadow": shadow, AGE: aged}
    extras = [name for name, there in has.items() if there]
    return rlds_writer.write(
        str(folder),
        _recorded(episodes, spec, extras),
        action=spec.interface.executed,
        observation=spec.interface.observation,
        description=description,
        file_format="array_record",
        intervention=intervention,
        extras=extras,
    )


def _recorded(
    episodes: Iterable[LabelledEpisode], spec: PolicySpec, extras: Collection[str]
) -> Iterator[RecordedEpisode]:
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
        kept = slice(len(episode.actions))
        yield dataclasses.replace(
            episode,
            task=labelled.task or episode.task,
            limited=tuple(labelled.limited[kept].tolist()) if "limited" in extras else None,
            policy=labelled.policy,
            shadow=labelled.shadow[kept] if "shadow" in extras else None,
            age_ms=labelled.age_ms[: len(episode.state)] if AGE in extras else None,
        )
