"""Defaults of an evaluation, `config.evaluate`."""

from __future__ import annotations

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of the initial conditions, which are not those of any collection
    config.step = 0  # which of the kept checkpoints; 0: the latest
    config.dataset = "collected"  # the dataset whose robot acts
    config.decode = "greedy"  # how to decide; or "beam:4", "sample:0.7", "rank:16:0.7" (docs/robot.md)
    config.episodes = 20  # of each task
    config.max_decisions = 0  # time limit of an evaluation episode; 0: config.env.max_decisions
    config.num_envs = 10  # environments stepped as one policy batch
    config.videos = 1  # episodes of each task that the report shows, with a video and Q over bins
    config.references = ()  # directories of evaluated runs to show beside this one
    config.affordances = ml_collections.ConfigDict()  # of the command `affordances`
    config.affordances.states = 40  # simulator states a task: half start an episode, half lie within one
    config.affordances.decisions = 0  # most decisions before a state; 0: config.env.max_decisions
    config.affordances.timed = (1, 2, 10, 50)  # numbers of instructions: valuing so many at once is timed
    return config
