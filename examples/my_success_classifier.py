"""A success classifier of your own in one file: it labels the autonomous episodes that `collect` records.

    python -m qt_jax collect --config=examples/my_success_classifier.py
    python -m qt_jax inspect --config=examples/my_success_classifier.py

It gets a whole `qt_jax.data.recorded.RecordedEpisode` and says whether it succeeded. Demonstrations are kept
only where the simulator says so, as before.
"""

import ml_collections
import numpy as np

from examples import my_suite
from qt_jax.data.recorded import RecordedEpisode


def in_the_corner(episode: RecordedEpisode) -> bool:
    """Returns whether the last state is near the corner of the task.

    A classifier of images decodes `episode.images["front"][-1]`, the JPEG of the last observation.
    """
    return bool(np.linalg.norm(episode.state[-1] - my_suite.GOALS[episode.task]) < 0.2)


def get_config() -> ml_collections.ConfigDict:
    config = my_suite.get_config()
    # This file, as Python finds it from where you start.
    config.collect.label = "examples.my_success_classifier:in_the_corner"
    config.data.path = "data/my_success_classifier"
    config.workdir = "runs/my_success_classifier"
    return config
