"""Frames that do not decode: replaced, in a run that resumes too, and named, counted, capped."""

import re

import numpy as np
import pytest

from qt_jax.data import validation_segments
from qt_jax.data.skips import DamagedFrame, Skips, pack
from qt_jax.errors import UserError
from tests.data.recipes import equal, frames_recipe, make_iterator, numbered, take
from tests.data.synthetic import BAD_FRAMES, FRAMES, FRAMES_LENGTH


@pytest.fixture(scope="module")
def recipe(synthetic_root):
    return frames_recipe(synthetic_root, max_skipped=2)


def seen_frames(recipe, batches):
    """(episode, step) of every frame that was used."""
    states = np.concatenate([batch.state[batch.valid] for batch in batches])
    return {tuple(pair) for pair in numbered(recipe.state_statistics["frames"], states).tolist()}


def test_all_but_the_segments_with_a_bad_frame_are_used(recipe, capsys):
    iterator = make_iterator(recipe)
    batches = take(iterator, 40)
    assert {batch.tokens.shape[0] for batch in batches} == {8}
    used = seen_frames(recipe, batches)
    assert used.isdisjoint(BAD_FRAMES.items()) and {episode for episode, _ in used} == set(range(FRAMES))
    whole = {(e, t) for e in range(FRAMES) if e not in BAD_FRAMES for t in range(FRAMES_LENGTH + 1)}
    assert whole <= used and all(batch.trainable.any() for batch in batches)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == iterator.skips.count == 2, "each episode once"
    assert re.fullmatch(
        r"frames: \S+/frames/0.1.0: frames-train.tfrecord-00000-of-00002, episode 2, step 3: image 'front' "
        r"does not decode \([12] damaged of 12 episodes; config.data.max_skipped=2\); other segments take .*",
        min(lines, key=lambda line: "episode 5" in line),
    )


def test_a_run_that_resumes_draws_the_same_replacements(recipe):
    batches = take(make_iterator(recipe), 8)
    for step in (1, 4, 7):
        resumed = make_iterator(recipe, threads=1, memory=0)
        resumed.set_state({"batches": step})
        equal(take(resumed, 1)[0], batches[step])


@pytest.mark.parametrize("cap", [0, 1])
def test_beyond_the_cap_training_stops_and_names_the_frame(synthetic_root, cap):
    iterator = make_iterator(frames_recipe(synthetic_root, max_skipped=cap))
    place = r"frames: \S+/frames/0.1.0: frames-train.tfrecord-0000\d-of-00002, episode \d, step [30]: "
    place += "image 'front' does not decode "
    counts = rf"\({cap + 1} damaged of 12 episodes; config.data.max_skipped={cap}\). Repair"
    with pytest.raises(UserError, match=f"^{place}{counts}"):
        take(iterator, 40)
    iterator.close()


def test_in_validation_its_row_counts_nowhere(synthetic_root):
    recipe = frames_recipe(synthetic_root, max_skipped=2, validation_fraction=0.9)
    source = recipe.mixture.sources[0]
    assert set(BAD_FRAMES) <= set(source.validation.tolist())
    skips = Skips(recipe.mixture, 2)
    draws = validation_segments.held_out(recipe, 1000)
    rows = 0
    for batch in validation_segments.batches(recipe, draws, batch_size=5, skips=skips):
        rows += int(batch.trainable.any(axis=1).sum())
    bad = sum(_holds(recipe, draw) for draw in draws)
    assert bad >= 2 and rows == len(draws) - bad and skips.count == 2


def _holds(recipe, draw):
    start = draw.cut * recipe.cutting.stride
    return start <= BAD_FRAMES.get(draw.episode, -1) < start + recipe.cutting.length


def test_a_dataset_of_damaged_frames_alone_is_given_up(recipe, monkeypatch):
    monkeypatch.setattr("qt_jax.data.images._decode_into", lambda frame, image: 1 / 0)
    with pytest.raises(
        UserError, match=r"frames: .*, episode \d+, step \d: an image does not decode, as in 19 segments"
    ):
        take(make_iterator(recipe), 1)


def test_what_the_index_left_out_counts_too(recipe):
    source = recipe.mixture.sources[0]
    source.index.skipped["a record"] = 1
    try:
        skips = Skips(recipe.mixture, 2)
        skips.add(pack([DamagedFrame(0, 2, 0, 3), DamagedFrame(0, 2, 0, 3)]))
        assert skips.count == 2
        with pytest.raises(UserError, match="3 damaged of 13 episodes"):
            skips.add(pack([DamagedFrame(0, 5, 0, 0)]))
    finally:
        del source.index.skipped["a record"]


def test_a_line_warns_of_less_memory_than_the_shuffled_episodes_need(recipe):
    size = int(recipe.mixture.sources[0].index.columns["size"].sum())
    assert make_iterator(recipe, memory=size).memory_notice() == ""
    notice = make_iterator(recipe, memory=size // 2).memory_notice()
    assert re.fullmatch(
        r"The 12 episodes that are shuffled together .*config.data.memory_mib keeps 0: .*\n", notice
    )
