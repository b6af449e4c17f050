"""What the columns of a LeRobot folder mean: a `DatasetSpec`, from the folder's own metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data import lerobot_meta
from qt_jax.data.lerobot_meta import Metadata
from qt_jax.data.recorded import collector_of, is_mark, rewards_of
from qt_jax.data.specs import BINS, DatasetSpec
from qt_jax.data.standardisers import Standardised
from qt_jax.data.stored import BadRecord
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION, ActionSpec, ObservationSpec

SUCCESS = "next.success"
"""LeRobot's key of success."""
IN_A_TABLE = "of qt_jax.data.lerobot_spec in a file named by config.data.tables"


@dataclasses.dataclass(frozen=True)
class LeRobotReader:
    """A standardiser of LeRobot's episodes, as `Folder.parse` returns them.

    A row holds an observation and the action taken there, and nothing holds the observation after the last
    action. So the last row's action is given up, and its reward and success move to the transition before, as
    `convert` does. The first success ends an episode.

    action, state, cameras, success, reward, instruction, collector, intervention: as in `spec`; cameras:
    (name, key).
    """

    action: tuple[str, ...]
    state: tuple[str, ...]
    cameras: tuple[tuple[str, str], ...]
    success: str
    reward: str
    instruction: str
    collector: str
    intervention: str = ""

    def __call__(self, episode: dict[str, Any]) -> Standardised:
        """Makes a `Standardised` of an episode; raises BadRecord for one of two instructions."""
        steps, tasks = episode["steps"], episode["tasks"]
        rows = len(tasks)
        if rows < 2:
            raise BadRecord(f"has {rows} rows; a transition needs two")
        if not (self.instruction or tasks[0]):
            raise BadRecord(
                f"its task_index {steps['task_index'][0]} has no text in the metadata; give one to all "
                f"episodes: spec(PATH, instruction=TEXT) {IN_A_TABLE}, or `convert --fallback_instruction`"
            )
        change = next((step for step in range(1, rows) if tasks[step] != tasks[step - 1]), None)
        if change is not None and not self.instruction:
            raise BadRecord(
                f"its task changes from {tasks[change - 1]!r} to {tasks[change]!r}, expected one instruction "
                "an episode; `convert --cut=instruction` makes an episode of each part",
                change,
            )

        success: bool | np.ndarray = self.success == "all"
        if self.success not in ("all", "none"):
            success = np.asarray(steps[self.success]) > 0
            if not is_mark(steps[self.success]):
                raise BadRecord(
                    f"its {self.success!r} has several values, expected 0 or one positive at success"
                )
        stored = np.asarray(steps[self.reward], np.float32) if self.reward else None
        rewards = rewards_of(rows - 1, success, stored)
        records = len(rewards) + 1

        def joined(keys):
            parts = [np.asarray(steps[key][:records], np.float32).reshape(records, -1) for key in keys]
            return np.concatenate(parts, axis=1)

        action = joined(self.action)
        action[-1] = 0.0
        ends = np.arange(records) == records - 1
        by_person = np.asarray(steps[self.intervention][:records]) > 0 if self.intervention else None
        return Standardised(
            instruction=self.instruction or tasks[0],
            images={name: steps[key][:records] for name, key in self.cameras},
            action=action,
            is_first=np.arange(records) == 0,
            is_last=ends,
            state=joined(self.state) if self.state else None,
            episode_id=f"episode_{episode['episode_index']:06d}",
            collector=self.collector if by_person is None else collector_of(by_person[:-1]),
            reward=np.append(rewards, np.float32(0.0)),
            success=bool(np.any(success)),
            terminal=bool(np.any(success)),
            intervention=by_person,
        )


def spec(
    path: str,
    *,
    action: str | Sequence[str] = "",
    state: Sequence[str] | None = None,
    cameras: Mapping[str, str] | None = None,
    success: str = "",
    reward: str = "",
    instruction: str = "",
    collector: str = DEMONSTRATION,
    intervention: str = "",
) -> DatasetSpec:
    """Returns the spec of the LeRobot folder `path`, for a table of yours.

    The bounds of the actions are the least and the greatest value of the data.

    Args:
        path: from the working directory, or absolute; config.data.root is not put before it.
        action: key of the action, or keys that are joined to it; "": action or actions.
        state: keys that are joined to the state vector; (): none; None: observation.state or state, and none
            where the action is the only vector.
        cameras: {name: key}; None: all, named by the last part of their keys.
        success: a key that is positive where the task is solved, "all" or "none"; "": next.success, or "all"
            where that is not there.
        reward: key of the stored reward; "": 1 at the transition that succeeds.
        instruction: of all episodes; "": what each one's task says.
        collector: who acted; any name but "demonstration" stands for an autonomous policy.
        intervention: a key that is positive at a person's steps, which says who acted step by step; "": none.

    Raises:
        UserError: if there is no LeRobot folder, or no such key.

    """
    meta = lerobot_meta.read(Path(path).expanduser().resolve())
    if isinstance(state, str) or not isinstance(cameras, Mapping | None):
        raise UserError(
            f"spec({path!r}) has state={state!r} and cameras={cameras!r}; expected state=[KEY, ...] and "
            "cameras={NAME: KEY}."
        )
    try:
        named = [action] if isinstance(action, str) and action else action
        actions = tuple(named or _usual_action(meta))
        reader = LeRobotReader(
            action=actions,
            state=_usual_state(meta, actions) if state is None else tuple(state),
            cameras=tuple((_all_cameras(meta) if cameras is None else cameras).items()),
            success=success or (SUCCESS if SUCCESS in meta.features else "all"),
            reward=reward,
            instruction=instruction,
            collector=collector,
            intervention=intervention,
        )
        _check(meta, reader)
        names = tuple(lerobot_meta.joined_names(meta.features, reader.action))
        count = len(names)
        return DatasetSpec(
            path=str(meta.root),
            standardise=reader,
            action=ActionSpec(names, (-1.0,) * count, (1.0,) * count, (BINS,) * count),
            observation=_observation(meta, reader),
            last_record="observation",
            reward="stored" if reward else "success",
            dt=1.0 / meta.fps,
            bounds="data",
            image_sizes=_image_sizes(meta, reader),
            notes=_notes(meta, reader),
        )
    except lerobot_meta.NOT_AS_WRITTEN as error:
        raise UserError(
            f"{meta.root}/meta/info.json has a feature that is not as LeRobot writes it "
            f"({type(error).__name__}: {error}); copy it again."
        ) from error


def _vectors(meta: Metadata) -> list[str]:
    return [key for key, feature in meta.features.items() if lerobot_meta.is_vector(key, feature)]


def _usual_action(meta: Metadata) -> Sequence[str]:
    found = [key for key in ("action", "actions") if key in _vectors(meta)]
    if len(found) != 1:
        raise UserError(
            f"{meta.root} has {' and '.join(found) or 'neither action nor actions'} among its vectors "
            f"{_vectors(meta)}; name the action: spec(PATH, action=KEY) {IN_A_TABLE}."
        )
    return found


def _usual_state(meta: Metadata, action: tuple[str, ...]) -> tuple[str, ...]:
    vectors = [key for key in _vectors(meta) if key not in action]
    found = [key for key in lerobot_meta.STATES if key in vectors][:1]
    if vectors and not found:
        raise UserError(
            f"{meta.root} has no {lerobot_meta.STATES[0]!r} among its vectors {sorted(vectors)}; name the "
            f"state: spec(PATH, state=[KEY, ...]) {IN_A_TABLE}, or state=() for none."
        )
    return tuple(found)


def _all_cameras(meta: Metadata) -> dict[str, str]:
    found = lerobot_meta.cameras(meta.features)
    for key in found.values():
        if why := lerobot_meta.why_unusable(key, meta.features[key]):
            raise UserError(
                f"{meta.root}: {key!r} cannot be used ({why}); name the others: spec(PATH, cameras={{NAME: "
                f"KEY}}) {IN_A_TABLE}, or `convert --cameras`."
            )
    return found


def _check(meta: Metadata, reader: LeRobotReader) -> None:
    """Raises a UserError for a key that is not there."""
    numbers = [key for key, feature in meta.features.items() if lerobot_meta.is_number(feature)]
    marks = [] if reader.success in ("all", "none") else [reader.success]
    images = list(lerobot_meta.cameras(meta.features).values())
    for argument, keys, known in (
        ("action", reader.action, _vectors(meta)),
        ("state", reader.state, _vectors(meta)),
        ("cameras", [key for _, key in reader.cameras], images),
        ("success", marks, numbers),
        ("reward", [reader.reward] if reader.reward else [], numbers),
        ("intervention", [reader.intervention] if reader.intervention else [], numbers),
    ):
        for key in keys:
            if key not in known:
                raise UserError(f"{argument} is {key!r}; {meta.root} has {sorted(known)} to choose from.")


def _observation(meta: Metadata, reader: LeRobotReader) -> ObservationSpec:
    features = {key: meta.features[key] for key in reader.state}
    sizes = _image_sizes(meta, reader)
    return ObservationSpec(
        cameras=tuple(sizes),
        image_size=next(iter(sizes.values()), (0, 0)),
        state_dim=sum(int(np.prod(features[key]["shape"])) for key in reader.state),
        state_description=", ".join(
            f"{key}: {' '.join(lerobot_meta.names(features[key]))}" for key in reader.state
        ),
    )


def _image_sizes(meta: Metadata, reader: LeRobotReader) -> dict[str, tuple[int, int]]:
    """Returns {camera: (height, width)}."""
    features = {name: meta.features[key] for name, key in reader.cameras}
    return {name: lerobot_meta.height_width_channels(feature)[:2] for name, feature in features.items()}


def _notes(meta: Metadata, reader: LeRobotReader) -> tuple[str, ...]:
    notes = ["the bounds of its actions are the least and the greatest values of the data"]
    if reader.success in ("all", "none"):
        notes.append(
            f"each of its episodes counts as a {'success' if reader.success == 'all' else 'failure'}"
        )
    used = {*reader.action, *reader.state, *dict(reader.cameras).values(), reader.success, reader.reward}
    used.add(reader.intervention)
    if unused := sorted(set(meta.features) - used - set(lerobot_meta.OWN)):
        notes.append(f"not used: {', '.join(unused)}")
    if undeclared := lerobot_meta.undeclared(meta):
        notes.append(f"not used, since meta/info.json does not declare them: {', '.join(undeclared)}")
    return tuple(notes)
