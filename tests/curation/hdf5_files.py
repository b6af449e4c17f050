"""HDF5 files as labs have them, of one episode (ALOHA) or of several (robomimic)."""

import h5py
import numpy as np

from tests.curation import recordings

STEPS = 6

DEPTH = np.ones((STEPS, *recordings.SIZE), np.uint16)
FLAGS = {"success": "all", "instruction": "fold", "fps": 50.0}


def frames(camera="front"):
    return np.stack([recordings.frame(0, step, camera) for step in range(STEPS)])


def episode(path, **observations):
    """A file of one episode; a keyword's __ is a / of the path below observations."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["action"] = np.random.default_rng(0).uniform(-1, 1, (STEPS, 2))
        file["observations/qpos"] = np.arange(3.0 * STEPS).reshape(STEPS, 3)
        for key, value in observations.items():
            file[f"observations/{key.replace('__', '/')}"] = value
    return path


def robomimic(path, demos=3, **columns):
    """A file of `demos`, with `columns` in place of the rewards."""
    with h5py.File(path, "w") as file:
        for i in range(demos):
            group = file.create_group(f"data/demo_{i}")
            group["actions"] = np.linspace(-1, 1, 2 * STEPS).reshape(STEPS, 2)
            group["obs/pos"] = np.ones((STEPS, 3))
            for key, value in ({"rewards": np.arange(STEPS) == STEPS - 1} | columns).items():
                group[key] = np.asarray(value, float)
            group.attrs["fps"], group.attrs["instruction"] = 10, "lift"
    return path


def padded(files):
    rows = np.zeros((len(files), max(map(len, files)) + 5), np.uint8)
    for row, content in zip(rows, files):
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return rows


def variable(file, name, files):
    file.create_dataset(name, (len(files),), h5py.vlen_dtype(np.uint8))
    for step, content in enumerate(files):
        file[name][step] = np.frombuffer(content, np.uint8)


def linked(path, link, of="observations/images/front"):
    with h5py.File(episode(path), "a") as file:
        file["raw/front"] = frames()
        file[of] = link(file)
    return path
