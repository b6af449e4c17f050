"""Writes small datasets with the lerobot package: PYTHON tests/data/lerobot_writer.py FOLDER.

PYTHON is of an environment with lerobot alone (`make .lerobot/.installed`): 0.4.4 writes version 3.0 of the
format, 0.3.3 version 2.1. FOLDER gets `video` and `image`. `tests/data/lerobot` was written by it.
"""

import inspect
import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, SIZE, LENGTHS = 10, (48, 64), (7, 5, 9, 6)
TASKS = ("open the drawer", "close the drawer")
FAILED = 1
"""The episode that does not succeed; the others do at their last action."""


def frame(episode, step, camera):
    """A smooth picture that tells episode, step and camera apart, whatever a codec does to it."""
    height, width = SIZE
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 40 + 40 * episode
    image[..., 1] = 20 + 20 * step
    rows, columns = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)[None]
    image[..., 2] = columns if camera == "wrist" else rows
    return image


def write(root, kind):
    image = {"dtype": kind, "shape": (*SIZE, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": image,
        "observation.images.wrist": image,
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["shoulder", "gripper"]},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create(
        "me/tiny", fps=FPS, features=features, root=root, robot_type="arm", use_videos=kind == "video"
    )
    apart = "task" in inspect.signature(dataset.add_frame).parameters  # 0.3
    for episode, length in enumerate(LENGTHS):
        rng = np.random.default_rng(episode)
        for step in range(length):
            row = {
                f"observation.images.{camera}": frame(episode, step, camera) for camera in ("front", "wrist")
            }
            row["observation.state"] = rng.normal(size=3).astype(np.float32)
            row["action"] = rng.uniform(-1, 1, 2).astype(np.float32)
            row["next.success"] = np.array([step == length - 1 and episode != FAILED])
            task = TASKS[episode % 2]
            dataset.add_frame(row, task=task) if apart else dataset.add_frame(row | {"task": task})
        dataset.save_episode()
    if hasattr(dataset, "finalize"):  # 0.4
        dataset.finalize()


if __name__ == "__main__":
    for kind in ("video", "image"):
        write(f"{sys.argv[1]}/{kind}", kind)
