"""Hindsight: episodes as failures at other tasks."""

import dataclasses

import numpy as np

from qt_jax.data import loader
from qt_jax.data.order import Draw
from tests.data.recipes import NUMBERS, first_states, make_iterator, make_recipe, take

OWN = (("push the cube", "shove the cube"), ("lift the ring", "raise the ring"))
"""Instructions of the even and of the odd episodes."""


def test_hindsight_chooses_other_tasks(synthetic_root):
    recipe = make_recipe(synthetic_root, relabel_rate=0.5)
    source = recipe.mixture.sources[0]

    def instruction(embedding):
        nearest = np.argmin(np.abs(source.index.embeddings - embedding).sum(1))
        return source.index.instructions[nearest]

    flags = []
    for batch in take(make_iterator(recipe), 60):
        episodes = first_states(source, batch)[:, 0]
        for episode, row, flag, success in zip(episodes, batch.instruction, batch.relabelled, batch.success):
            assert (instruction(row) in OWN[episode % 2]) != flag
            assert not (flag and success)
            flags.append(flag)
        assert not batch.reward[batch.relabelled].any() and not batch.is_terminal[batch.relabelled].any()
    assert 0.4 < np.mean(flags) < 0.6


def test_hindsight_never_chooses_what_the_episode_achieved(synthetic_root):
    source = make_recipe(synthetic_root).mixture.sources[0]
    achieving = dataclasses.replace(NUMBERS, achieves={"even": ("odd",)})
    for batch in take(make_iterator(make_recipe(synthetic_root, spec=achieving, relabel_rate=0.9)), 20):
        first = first_states(source, batch)[:, 0]
        even_success = (first % 2 == 0) & (first % 3 < 2)
        assert even_success.any() and not batch.relabelled[even_success].any()


def test_hindsight_never_chooses_a_paraphrase(synthetic_root):
    """With so small a cosine every instruction counts as one."""
    recipe = make_recipe(synthetic_root, relabel_rate=0.9, paraphrase_cosine=0.01)
    assert not any(batch.relabelled.any() for batch in take(make_iterator(recipe), 5))


def test_hindsight_of_a_success_whose_last_observation_was_not_kept(synthetic_root):
    """As a failure it is one transition shorter. A cut that holds only that one is read as it was."""
    spec = dataclasses.replace(NUMBERS, last_record="transition")
    recipe = make_recipe(synthetic_root, spec=spec, relabel_rate=0.9)
    columns, cutting = recipe.mixture.sources[0].index.columns, recipe.cutting

    def cuts(length):
        return len(cutting.starts(int(length)))

    read = [(number, e) for number in range(4) for e in np.flatnonzero(columns["success"])]
    draws = [Draw(0, e, cut, 0, number) for number, e in read for cut in range(cuts(columns["length"][e]))]
    batch, _ = loader.SegmentReader(recipe).batch(draws)
    gone = np.asarray([draw.cut >= cuts(columns["length"][draw.episode] - 1) for draw in draws])
    assert gone.any() and not batch.relabelled[gone].any() and batch.success[gone].all()
    assert batch.relabelled[~gone].mean() > 0.7 and not batch.is_terminal[batch.relabelled].any()
    assert (batch.trainable[gone].sum(axis=1) == cutting.n_step).all()
