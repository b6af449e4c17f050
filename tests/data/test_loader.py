"""Batches from real files: exact positions, with threads and worker processes, on several hosts."""

import collections
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from qt_jax.data import episodes, validation_segments
from qt_jax.errors import UserError
from tests.conftest import ROOT
from tests.data.recipes import equal, frames_recipe, make_iterator, make_recipe, steps_of, take
from tests.data.synthetic import LENGTHS


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_restored_at_every_step_the_next_batch_is_the_same(synthetic_root, file_format):
    recipe = make_recipe(synthetic_root, file_format)
    batches = take(make_iterator(recipe), 20)
    equal(batches[7], take(make_iterator(make_recipe(synthetic_root, "tfrecord")), 8)[7])
    for step in range(19):
        resumed = make_iterator(recipe, threads=1)
        resumed.set_state(json.loads(json.dumps({"batches": step})))
        equal(take(resumed, 1)[0], batches[step])


def test_worker_processes_make_the_same_batches(synthetic_root, capfd):
    """With hindsight, and with frames that do not decode, which the trainer's own process reports."""
    recipe = frames_recipe(synthetic_root, relabel_rate=0.3, max_skipped=2)
    whole = make_iterator(recipe)
    expected = take(whole, 9)
    workers = make_iterator(recipe, workers=2, threads=1)
    for one, other in zip(take(workers, 5), expected):
        equal(one, other)
    workers.set_state({"batches": 5})
    for one, other in zip(take(workers, 4), expected[5:]):
        equal(one, other)
    assert workers.skips.count == whole.skips.count == 2 and workers._plan._memory == 2**23
    assert capfd.readouterr().out.count("does not decode") == 4


def test_workers_that_do_not_divide_the_rows_are_refused(synthetic_root):
    with pytest.raises(UserError, match="config.data.workers is 3, which does not divide the 8 rows"):
        make_iterator(make_recipe(synthetic_root), workers=3)


def test_hosts_read_their_own_rows_of_the_same_batches_and_their_own_episodes(synthetic_root):
    recipe = make_recipe(synthetic_root)
    whole = take(make_iterator(recipe), 6)
    hosts = [make_iterator(recipe, rows=np.arange(start, start + 4)) for start in (0, 4)]
    draws = []
    for start, host in zip((0, 4), hosts):
        found = [next(host) for _ in range(6)]
        drawn = [draw for number in range(6) for draw in host._plan._readers[0].batch(number)]
        draws.append({(draw.group, draw.number) for draw in drawn})
        host.close()
        for batch, expected in zip(found, whole):
            equal(batch, jax.tree.map(lambda x, start=start: x[start : start + 4], expected))
    assert not draws[0] & draws[1], "a reading of an episode belongs to one host"


def test_every_transition_once_an_epoch(synthetic_root):
    """With one row no row is ahead of another: the first epoch is every transition of every episode."""
    recipe = make_recipe(synthetic_root)
    iterator = make_iterator(recipe, batch_size=1, shuffle_episodes=len(LENGTHS))
    seen = collections.Counter()
    for batch in take(iterator, iterator.segments):
        seen.update(steps_of(recipe, batch))
    assert seen == {(episode, t): 1 for episode, length in enumerate(LENGTHS) for t in range(length)}


def test_rows_visit_every_episode_equally_often(synthetic_root):
    recipe = make_recipe(synthetic_root)
    seen = collections.Counter()
    for batch in take(make_iterator(recipe), 120):
        seen.update(steps_of(recipe, batch))
    visits = [seen[episode, t] for episode, length in enumerate(LENGTHS) for t in range(length)]
    assert min(visits) >= 0.6 * np.mean(visits) and max(visits) <= 1.4 * np.mean(visits)


def test_validation_covers_every_transition_once(synthetic_root):
    recipe = make_recipe(synthetic_root, validation_fraction=0.5)
    source = recipe.mixture.sources[0]
    batches = list(
        validation_segments.batches(recipe, validation_segments.held_out(recipe, 1000), batch_size=4)
    )
    seen = collections.Counter(pair for batch in batches for pair in steps_of(recipe, batch))
    assert seen == {(int(e), t): 1 for e in source.validation for t in range(LENGTHS[e])}
    assert {batch.tokens.shape[0] for batch in batches} == {4}
    assert len(validation_segments.held_out(recipe, 5)) <= 5


def test_training_segments_to_look_at_are_always_the_same(synthetic_root):
    recipe = make_recipe(synthetic_root, validation_fraction=0.5)
    source = recipe.mixture.sources[0]
    assert {draw.episode for draw in validation_segments.trained(recipe, 1000)} == set(source.train)
    few = validation_segments.trained(recipe, 5)
    assert 0 < len(few) <= 5 and few == validation_segments.trained(recipe, 5)


def test_a_record_that_changes_under_the_run_is_named(synthetic_root, tmp_path):
    shutil.copytree(f"{synthetic_root}/numbers_tfrecord", tmp_path / "numbers_tfrecord")
    recipe = make_recipe(tmp_path)
    for shard in (tmp_path / "numbers_tfrecord").glob("*/*-of-*"):
        content = bytearray(shard.read_bytes())
        content[40] ^= 0xFF
        shard.write_bytes(content)
    with pytest.raises(UserError, match="has a wrong checksum, though it was sound when it was indexed"):
        take(make_iterator(recipe), 20)


def test_the_loader_needs_no_tensorflow(synthetic_root):
    script = (
        "import sys; from tests.data.recipes import make_recipe, make_iterator, take;"
        f"[take(make_iterator(make_recipe({synthetic_root!r}, f)), 2) for f in ('tfrecord', 'array_record')];"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_an_episode_that_its_standardiser_leaves_out_after_all_is_named(synthetic_root, monkeypatch):
    recipe = make_recipe(synthetic_root)
    monkeypatch.setattr(episodes, "read", lambda *_: None)
    with pytest.raises(UserError, match=r"episode \d+: is left out by collected, though it was sound"):
        take(make_iterator(recipe), 1)
