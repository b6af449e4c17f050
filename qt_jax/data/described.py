"""The spec of a dataset that `collect` or `convert` wrote, from the dataset's own description."""

from __future__ import annotations

from qt_jax.data import records, standardisers
from qt_jax.data.specs import DatasetSpec
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

BINS = 256
"""Of each action dim, as in RT-1; `config.data.bins` says otherwise."""


def spec(path: str) -> DatasetSpec:
    """Raises a UserError if there is no dataset, or one that does not describe its actions."""
    directory = records.open_directory(path)
    action = directory.metadata.get("action")
    if action is None:
        raise UserError(
            f"{directory.path} does not say what its actions are (no 'action' in metadata.json); give it a DatasetSpec in a file named by "
            "config.data.tables."
        )
    observation = directory.features["steps"]["observation"]
    cameras = sorted(set(observation) - {"state"})
    sizes = {observation[camera].shape[:2] for camera in cameras}
    if len(sizes) > 1:
        raise UserError(
            f"{directory.path} has cameras of {sorted(sizes)}; give it a DatasetSpec in a file named by config.data.tables."
        )
    state = observation["state"] if "state" in observation else None
    return DatasetSpec(
        path=path,
        standardise=standardisers.collected,
        action=ActionSpec(action["names"], action["low"], action["high"], (BINS,) * len(action["names"])),
        observation=ObservationSpec(
            cameras,
            next(iter(sizes), (0, 0)),
            state.shape[0] if state else 0,
            (state.doc.desc or "") if state else "no state vector",
        ),
        last_record="observation",
        reward=directory.metadata.get("reward", "success"),
        dt=None,
    )
