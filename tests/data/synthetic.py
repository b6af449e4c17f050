"""Tiny datasets in the exact layouts of public robot data, and of `collect`.

The features are those of TFDS's public descriptions. `main(DIR)` writes all datasets below DIR; call it in a
process of its own, since it imports TensorFlow.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from qt_jax.statistics import Statistics

LENGTHS = tuple(range(1, 25))
"""Transitions of each episode of `numbers`."""
FRACTAL_INSTRUCTIONS = ("pick coke can", "open middle drawer", "move apple near sponge")


def write(
    tfds,
    directory: str,
    features,
    episodes: list,
    file_format: str = "tfrecord",
    shards: int = 1,
    version: str = "0.1.0",
    others: dict[str, list] | None = None,
) -> None:
    """Writes a dataset; `others`: {split: episodes} beside `train`."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version(version)
        name = directory.rsplit("/", 1)[-1]

        def _info(self):
            return self.dataset_info_from_configs(features=features, disable_shuffling=True)

        def _split_generators(self, _):
            return {name: self._generate_examples(members) for name, members in splits.items()}

        def _generate_examples(self, members):
            yield from enumerate(members)

    splits = {"train": episodes} | (others or {})
    with tfds.core.registered.skip_registration():
        builder = Builder(data_dir=directory.rsplit("/", 1)[0], file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
    )


def flags(t: int, records: int) -> dict:
    return {"is_first": t == 0, "is_last": t == records - 1}


def fractal(tfds):
    """`fractal20220817_data` 0.1.0."""
    f, text = tfds.features, tfds.features.Text()

    def tensor(*shape):
        return f.Tensor(shape=shape, dtype=np.float32)

    names = ("collection_mode", "data_type", "env", "location", "objects_family", "task_family")
    action = {"base_displacement_vector": 2, "base_displacement_vertical_rotation": 1,
              "gripper_closedness_action": 1, "rotation_delta": 3, "world_vector": 3}  # fmt: skip
    vectors = {"base_pose_tool_reached": (7,), "gripper_closed": (1,), "gripper_closedness_commanded": (1,),
               "height_to_bottom": (1,), "natural_language_embedding": (512,), "orientation_box": (2, 3),
               "orientation_start": (4,), "robot_orientation_positions_box": (3, 3),
               "rotation_delta_to_go": (3,), "src_rotation": (4,), "vector_to_go": (3,),
               "workspace_bounds": (3, 3)}  # fmt: skip
    aspects = ("already_success", "feasible", "has_aspects", "success", "undesirable")
    front = f.Image(shape=(256, 320, 3), encoding_format="jpeg")
    features = f.FeaturesDict(
        {
            "aspects": dict.fromkeys(aspects, np.bool_),
            "attributes": {name: np.int64 for name in names} | {f"{name}_name": text for name in names},
            "steps": f.Dataset(
                {
                    "action": {name: tensor(size) for name, size in action.items()}
                    | {"terminate_episode": f.Tensor(shape=(3,), dtype=np.int32)},
                    "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_, "reward": np.float32,
                    "observation": {name: tensor(*shape) for name, shape in vectors.items()}
                    | {"image": front, "natural_language_instruction": text},
                }
            ),
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(9):
        records, success = 6 + number, number % 3 != 2
        embedding = np.full(512, number % 3, np.float32)

        def terminate(t, records=records):
            return [0, 0, 0] if t == records - 1 else [1, 0, 0] if t == records - 2 else [0, 1, 0]

        def command(size, t, records=records):
            return rng.uniform(-0.5, 0.5, size).astype(np.float32) * (t < records - 1)

        steps = [
            {
                "action": {name: command(size, t) for name, size in action.items()}
                | {"terminate_episode": np.asarray(terminate(t), np.int32)},
                **flags(t, records), "is_terminal": t == records - 1,
                "reward": float(success and t == records - 1),
                "observation": {name: np.float32(rng.normal(size=shape)) for name, shape in vectors.items()}
                | {"image": picture(rng, 256, 320),
                   "natural_language_instruction": FRACTAL_INSTRUCTIONS[number % 3],
                   "natural_language_embedding": embedding},
            }
            for t in range(records)
        ]  # fmt: skip
        attributes = dict.fromkeys(names, 1) | {f"{name}_name": "x" for name in names}
        aspect = dict.fromkeys(aspects, success)
        episodes.append({"aspects": aspect, "attributes": attributes, "steps": steps})
    return features, episodes


def bridge(tfds):
    """`bridge_dataset` 1.0.0 (Bridge V2)."""
    f = tfds.features
    image = f.Image(shape=(256, 256, 3), encoding_format="jpeg")
    vector, embedding = (f.Tensor(shape=(size,), dtype=np.float32) for size in (7, 512))
    features = f.FeaturesDict(
        {
            "steps": f.Dataset(
                {
                    "observation": {**{f"image_{i}": image for i in range(4)}, "state": vector},
                    "action": vector, "discount": np.float32, "reward": np.float32,
                    "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_,
                    "language_instruction": f.Text(), "language_embedding": embedding,
                }
            ),
            "episode_metadata": {"file_path": f.Text(), "has_language": np.bool_, "episode_id": np.int32,
                                 **{f"has_image_{i}": np.bool_ for i in range(4)}},
        }
    )  # fmt: skip
    rng = np.random.default_rng(1)
    episodes = []
    for number in range(6):
        records, has_language = 8, number != 5
        state = np.cumsum(rng.uniform(-0.03, 0.03, (records, 7)), axis=0).astype(np.float32)
        action = np.zeros((records, 7), np.float32)
        action[:, 6] = rng.integers(0, 2, (records, 1))[:, 0]
        action[-1] = 0
        dark = {f"image_{i}": np.zeros((256, 256, 3), np.uint8) for i in (1, 2, 3)}
        steps = [
            {
                "observation": {"image_0": picture(rng, 256, 256), **dark, "state": state[t]},
                "action": action[t], "discount": 1.0, "reward": float(t == records - 1), **flags(t, records),
                "is_terminal": t == records - 1,
                "language_instruction": "put the spoon on the towel" if has_language else "",
                "language_embedding": np.zeros(512, np.float32),
            }
            for t in range(records)
        ]  # fmt: skip
        metadata = {"file_path": f"/raw/{number}", "has_language": has_language, "episode_id": number}
        metadata |= {f"has_image_{i}": i == 0 for i in range(4)}
        episodes.append({"steps": steps, "episode_metadata": metadata})
    return features, episodes


def language_table(tfds):
    """`language_table` 0.0.1."""
    f = tfds.features
    xy = f.Tensor(shape=(2,), dtype=np.float32)
    features = f.FeaturesDict(
        {
            "episode_id": f.Text(),
            "steps": f.Dataset(
                {
                    "action": xy, "reward": np.float32,
                    "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_,
                    "observation": {"effector_translation": xy, "effector_target_translation": xy,
                                    "instruction": f.Tensor(shape=(512,), dtype=np.int32),
                                    "rgb": f.Image(shape=(360, 640, 3), encoding_format="jpeg")},
                }
            ),
        }
    )  # fmt: skip
    rng = np.random.default_rng(2)
    sentence = b"push the red star to the blue cube"
    instruction = np.pad(np.frombuffer(sentence, np.uint8), (0, 512 - len(sentence))).astype(np.int32)

    def vector():
        return rng.uniform(-0.08, 0.08, 2).astype(np.float32)

    episodes = [
        {
            "episode_id": str(index),
            "steps": [
                {
                    "action": vector() * (t < 8), **flags(t, 9), "is_terminal": t == 8, "reward": 0.0,
                    "observation": {"effector_translation": vector(), "effector_target_translation": vector(),
                                    "instruction": instruction, "rgb": picture(rng, 360, 640)},
                }
                for t in range(9)
            ],
        }
        for index in range(4)
    ]  # fmt: skip
    return features, episodes


def collected_features(tfds, observation: dict, action_dims: int = 1):
    """Features of a dataset in the layout of `collect`."""
    from qt_jax import text

    f = tfds.features
    return f.FeaturesDict(
        {
            "steps": f.Dataset(
                {
                    "observation": observation, "action": f.Tensor(shape=(action_dims,), dtype=np.float32),
                    "reward": np.float32, "discount": np.float32,
                    "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_,
                }
            ),
            "episode_id": f.Text(), "task": f.Text(), "collector": f.Text(), "instruction": f.Text(),
            "instruction_embedding": f.Tensor(shape=(4,), dtype=np.float32, doc=text.ENCODER),
            "success": np.bool_, "dt": np.float32,
        }
    )  # fmt: skip


def numbers(tfds):
    """The layout of `collect`, without images: the state of step t of episode e is (e, t).

    There is an episode of each of `LENGTHS`. Of three episodes the first is a demonstration, the second
    another success, the third a failure. The tasks are "even" and "odd".
    """
    episodes = []
    for number, length in enumerate(LENGTHS):
        success, odd = number % 3 < 2, number % 2
        steps = [
            {
                "observation": {"state": np.asarray([number, t], np.float32)},
                "action": np.asarray([(t + 0.5) / 25 if t < length else 0], np.float32),
                "reward": float(success and t == length - 1), "discount": 1.0, **flags(t, length + 1),
                "is_terminal": success and t == length,
            }
            for t in range(length + 1)
        ]  # fmt: skip
        instructions = ("push the cube", "shove the cube", "lift the ring", "raise the ring")
        episodes.append(
            {
                "steps": steps, "episode_id": f"e{number}", "task": ("even", "odd")[odd],
                "success": success, "dt": 0.1, "collector": ("demonstration", "noise", "noise")[number % 3],
                "instruction": instructions[2 * odd + number // 2 % 2],
                "instruction_embedding": np.asarray([1 - odd, odd, number // 2 % 2 * 0.1, 0.2], np.float32),
            }
        )  # fmt: skip
    return collected_features(tfds, {"state": tfds.features.Tensor(shape=(2,), dtype=np.float32)}), episodes


FRAMES, FRAMES_LENGTH = 12, 7
"""Episodes of `frames` in all, and transitions of each."""
BAD_FRAMES = {2: 3, 5: 0}
"""{episode of `frames`: the step whose image does not decode}."""


def frames(tfds):
    """The layout of `collect` with one camera; a JPEG and a PNG of `BAD_FRAMES` are cut short."""
    front = tfds.features.Image(shape=(16, 16, 3), encoding_format="jpeg")
    rng = np.random.default_rng(3)

    def image(number: int, t: int) -> io.BytesIO:
        kind = "png" if number == 5 else "jpeg"
        Image.fromarray(picture(rng, 16, 16)).save(buffer := io.BytesIO(), kind)
        return io.BytesIO(buffer.getvalue()[: -40 if BAD_FRAMES.get(number) == t else None])

    episodes = [
        {
            "steps": [
                {
                    "observation": {"state": np.float32([number, t]), "front": image(number, t)},
                    "action": np.float32([rng.uniform() * (t < FRAMES_LENGTH)]),
                    "reward": float(t == FRAMES_LENGTH - 1), "discount": 1.0,
                    **flags(t, FRAMES_LENGTH + 1), "is_terminal": t == FRAMES_LENGTH,
                }
                for t in range(FRAMES_LENGTH + 1)
            ],
            "episode_id": f"e{number}", "task": ("even", "odd")[number % 2], "success": True, "dt": 0.1,
            "collector": "demonstration", "instruction": ("push the cube", "lift the ring")[number % 2],
            "instruction_embedding": np.float32([1 - number % 2, number % 2, 0, 0.2]),
        }
        for number in range(FRAMES)
    ]  # fmt: skip
    state = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    return collected_features(tfds, {"state": state, "front": front}), episodes


TOOK_OVER = {"demonstration": (0, 1, 2, 3, 4, 5), "intervention": (1, 2, 5), "policy": ()}
"""{collector: the steps, of 6, at which a person acted} of the episodes of `interventions`, in this order."""


def interventions():
    """Yields episodes that say step by step whether a person acted; states are numbered as in `numbers`."""
    from qt_jax.data.recorded import RecordedEpisode

    for number, (collector, steps) in enumerate(TOOK_OVER.items()):
        yield RecordedEpisode(
            task="even",
            collector=collector,
            index=number,
            instruction="push the cube",
            images={},
            state=np.float32([(number, t) for t in range(7)]),
            actions=np.full((6, 1), 0.5, np.float32),
            rewards=np.float32([0, 0, 0, 0, 0, number == 0]),
            success=number == 0,
            dt=0.1,
            intervention=np.isin(np.arange(6), steps),
        )


def unit_statistics(size: int) -> Statistics:
    """Statistics whose normalisation changes nothing."""
    return Statistics(*((value,) * size for value in (0.0, 1.0, -1.0, 1.0, -1.0, 1.0)))


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth image that differs from step to step."""
    coarse = rng.integers(0, 255, (4, 4, 3), np.uint8)
    return np.repeat(np.repeat(coarse, height // 4, axis=0), width // 4, axis=1)


def main(root: str) -> None:
    import tensorflow_datasets as tfds

    from qt_jax.curation import rlds_writer
    from qt_jax.specs import ActionSpec, ObservationSpec

    tfds.disable_progress_bar()
    write(tfds, f"{root}/fractal20220817_data", *fractal(tfds), shards=2)
    write(tfds, f"{root}/bridge_dataset", *bridge(tfds), version="1.0.0")
    write(tfds, f"{root}/language_table", *language_table(tfds), version="0.0.1")
    write(tfds, f"{root}/frames", *frames(tfds), shards=2)
    features, episodes = frames(tfds)
    splits = {"val": episodes[8:10], "test": episodes[10:]}
    write(tfds, f"{root}/frames_splits", features, episodes[:8], others=splits)
    spec = ActionSpec(("x",), (0.0,), (1.0,), (25,)), ObservationSpec((), (0, 0), 2, "e, t")
    about = dict(zip(("action", "observation"), spec), description="", file_format="tfrecord")
    rlds_writer.write(f"{root}/interventions", interventions(), intervention=True, **about)
    for file_format in ("tfrecord", "array_record"):
        write(tfds, f"{root}/numbers_{file_format}", *numbers(tfds), file_format=file_format, shards=3)
