"""Recipes and iterators over the synthetic datasets, for the tests of what reads them."""

import dataclasses

import jax
import numpy as np

from qt_jax.data import tables
from qt_jax.data.loader import TrainingIterator
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.standardisers import collected
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training import setup
from tests import tiny

NUMBERS = DatasetSpec(
    path="",
    standardise=collected,
    action=ActionSpec(("x",), (0.0,), (1.0,), (25,)),
    observation=ObservationSpec((), (0, 0), 2, "e, t"),
    last_record="observation",
    reward="success",
    dt=0.1,
)
"""Spec of the synthetic episodes of numbered states."""

FRAMES_SPEC = dataclasses.replace(NUMBERS, observation=ObservationSpec(("front",), (16, 16), 2, "e, t"))
"""Spec of the synthetic episodes with a camera, two of which have a damaged image."""


def make_config(**data):
    config = tiny.get_config()
    config.data.validation_fraction = 0.0
    config.data.update(data)
    return config


def numbers_entries(config, root, file_format="tfrecord", spec=NUMBERS):
    """Entries of the mixture of the numbered dataset alone."""
    config.data.mixture = "numbers"
    own = {"numbers": dataclasses.replace(spec, path=f"{root}/numbers_{file_format}")}
    return tables.resolve(config.data, own)


def make_recipe(root, file_format="tfrecord", spec=NUMBERS, **data):
    config = make_config(**data)
    return setup.prepare(config, numbers_entries(config, root, file_format, spec))[1]


def frames_recipe(root, dataset="frames", **data):
    config = make_config(**data)
    own = {"frames": dataclasses.replace(FRAMES_SPEC, path=f"{root}/{dataset}")}
    config.data.mixture = "frames"
    return setup.prepare(config, tables.resolve(config.data, own))[1]


def make_iterator(recipe, **overrides):
    settings = dict(batch_size=8, threads=2, shuffle_episodes=16, memory=2**24)
    return TrainingIterator(recipe, **(settings | overrides))


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def numbered(statistics, states):
    """The whole numbers [..., 2] that the normalised states were: episode and step."""
    return np.rint(states * np.asarray(statistics.std) + np.asarray(statistics.mean)).astype(int)


def first_states(source, batch):
    """(episode, step) of the first record of each row, from the numbered states."""
    return numbered(source.index.statistics["state"], batch.state[:, 0])


def steps_of(recipe, batch):
    """(episode, step) of each trainable transition, from the numbered states."""
    pairs = numbered(recipe.state_statistics["numbers"], batch.state[batch.trainable])
    return [tuple(pair) for pair in pairs]
