"""A dataset of your own in its own RLDS layout: one entry in a table, and a function that reads an episode.

    python -m qt_jax train --config=experiments/bridge.py --config.data.tables=examples/my_dataset_table.py \
        --config.data.mixture=kitchen --config.data.root=/datasets

docs/data.md says what each field means; `python -m qt_jax validate` finds what is wrong with an entry.
"""

from qt_jax.data.specs import DatasetSpec
from qt_jax.data.standardisers import Standardised
from qt_jax.specs import ActionSpec, ObservationSpec


def kitchen(episode: dict) -> Standardised:
    steps = episode["steps"]  # arrays stacked over the episode's records, images still encoded
    return Standardised(
        instruction=bytes(steps["language_instruction"][0]).decode(),
        images={"front": steps["observation"]["image"]},
        state=steps["observation"]["state"],
        action=steps["action"],
        reward=steps["reward"],
        success=bool(steps["reward"].max() > 0),
        is_first=steps["is_first"],
        is_last=steps["is_last"],
    )


SPECS = {
    "kitchen": DatasetSpec(
        path="kitchen/1.0.0",
        standardise=kitchen,
        action=ActionSpec(
            names=("x", "y", "z", "gripper"),
            low=(-0.05, -0.05, -0.05, 0.0),
            high=(0.05, 0.05, 0.05, 1.0),
            bins=(256, 256, 256, 2),
        ),
        observation=ObservationSpec(("front",), (128, 128), 7, "joint positions"),
        last_record="transition",
        reward="success",
        dt=0.1,
    )
}
MIXTURES = {"kitchen_and_rt1": {"kitchen": 1.0, "fractal_arm": 3.0}}
