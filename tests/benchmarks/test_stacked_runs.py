"""Runs trained as one program are the runs that `train` makes one by one."""

import jax
import ml_collections
import numpy as np
import pytest

from benchmarks import stacked_runs
from benchmarks.pool import read_pool
from qt_jax import agents
from qt_jax.data import mixture
from qt_jax.errors import UserError
from qt_jax.training import datasets, distributed, loop, setup


@pytest.mark.slow
def test_a_fleet_takes_the_steps_of_the_loop(config):
    config.env.cameras = ()
    config.train.steps = 6
    entries = datasets.entries(config)
    with distributed.start(config.distributed) as peers:
        alone = loop.train(ml_collections.FrozenConfigDict(config), entries, peers)
    frozen, recipe, assets = setup.prepare(config, entries)
    ensemble = agents.make_ensemble(frozen, assets.interface)
    groups = mixture.groups(recipe.mixture, recipe.cutting)
    pool = read_pool(recipe, groups)
    arrays, offsets = stacked_runs.joined([pool, pool])
    own = [
        {"seed": config.seed + 1, "agent.alpha": 3.0},
        {"seed": config.seed, "agent.alpha": config.agent.alpha},
    ]
    settings = {
        "steps": 6,
        "batch_size": config.data.batch_size,
        "shuffle_episodes": config.data.shuffle_episodes,
    }
    rows = [
        stacked_runs.rows(groups, pool, seed=values["seed"], **settings) + offset
        for values, offset in zip(own, offsets)
    ]
    runs = stacked_runs.Fleet(frozen, ensemble, arrays, own)
    for part in np.split(np.stack(rows, axis=1), [4]):
        metrics = runs.train(part)
    assert metrics["loss"].shape == (2,)
    other, same = runs.params()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone.params, same)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(same)))


def test_images_are_refused(config):
    _, recipe, _ = setup.prepare(config, datasets.entries(config))
    with pytest.raises(UserError, match="without images"):
        read_pool(recipe, mixture.groups(recipe.mixture, recipe.cutting))
