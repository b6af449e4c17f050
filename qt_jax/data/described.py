"""The spec of a dataset from its own metadata: of one that `collect` or `convert` wrote, or LeRobot did."""

from __future__ import annotations

from qt_jax import storage
from qt_jax.data import lerobot, lerobot_spec, records, standardisers
from qt_jax.data.specs import BINS, DatasetSpec
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec


def spec(path: str) -> DatasetSpec:
    """Returns the spec of the dataset in the directory `path`: one that says it itself, or a LeRobot folder.

    Raises:
        UserError: if there is no dataset, or its metadata does not describe the actions.

    """
    if lerobot.is_folder(path):
        return lerobot_spec.spec(path)
    directory = records.open_directory(path)
    action = directory.metadata.get("action")
    remedy = "give it a DatasetSpec in a file named by config.data.tables"
    if action is None:
        raise UserError(
            f"{directory.path} does not say what its actions are (no 'action' in metadata.json); {remedy}."
        )

    observation = directory.features["steps"]["observation"]
    cameras = tuple(sorted(set(observation) - {"state"}))
    sizes = {camera: observation[camera].shape[:2] for camera in cameras}
    size = next(iter(sizes.values()), (0, 0))
    state = observation["state"] if "state" in observation else None
    state_dim, description = (state.shape[0], state.doc.desc or "") if state else (0, "no state vector")

    return DatasetSpec(
        path=str(storage.directory(path)),
        standardise=standardisers.collected,
        action=ActionSpec(action["names"], action["low"], action["high"], (BINS,) * len(action["names"])),
        observation=ObservationSpec(cameras, size, state_dim, description),
        last_record="observation",
        reward=directory.metadata.get("reward", "success"),
        dt=None,
        image_sizes=sizes,
    )
