"""Writes episodes as a recording of Rerun (https://rerun.io), the optional extra `rerun`."""

from __future__ import annotations

from typing import Any

import simplejpeg

from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.images import encoded
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec


def sdk() -> Any:
    """Returns the module `rerun`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise UserError(
            "--rerun needs the package rerun-sdk; run `pip install 'qt_jax[rerun]'`.", topic="missing-package"
        ) from error
    return rerun


class Recording:
    """One file of episodes, each as the entity DATASET/KIND/EPISODE.

    Time is the step, and the seconds from the start of the episode.
    """

    def __init__(self, path: str):
        """Opens the file.

        Raises:
            UserError: if it cannot be written, or Rerun is not installed.
        """
        self._sdk = sdk()
        self._stream = self._sdk.RecordingStream("qt_jax")
        try:
            self._stream.save(path)
        except RuntimeError as error:
            raise UserError(
                f"--rerun={path} cannot be written ({error}); give a file in a folder that is there."
            ) from error

    def add(self, dataset: str, shown: Shown, action: ActionSpec) -> None:
        """Writes an episode of the dataset of that name."""
        rerun, stream, episode = self._sdk, self._stream, shown.episode
        entity = rerun.new_entity_path([dataset, shown.kind, *(episode.episode_id or shown.place).split("/")])
        outcome = "success" if episode.success else "failure"
        stream.log(
            f"{entity}/instruction", rerun.TextDocument(f"{episode.instruction} ({outcome})"), static=True
        )
        stream.log(f"{entity}/action", rerun.SeriesLines(names=list(action.names)), static=True)

        images = {camera: encoded(frames) for camera, frames in episode.images.items()}
        for step in range(len(episode.state)):
            stream.set_time("step", sequence=step)
            stream.set_time("seconds", duration=step * episode.dt)
            for camera, frames in images.items():
                image = next(frames)
                kind = "image/jpeg" if simplejpeg.is_jpeg(image) else "image/png"
                stream.log(f"{entity}/{camera}", rerun.EncodedImage(contents=image, media_type=kind))
            if episode.state.shape[1]:
                stream.log(f"{entity}/state", rerun.Scalars(episode.state[step]))
            if step < episode.length:
                stream.log(f"{entity}/action", rerun.Scalars(episode.actions[step]))
                stream.log(f"{entity}/reward", rerun.Scalars(episode.rewards[step]))

    def close(self) -> None:
        """Writes what is still in memory."""
        self._stream.flush()
        self._stream.disconnect()
