"""Batches from real files: exact positions with both formats, with threads and worker processes, on several
hosts; balance; hindsight.
"""

import collections
import dataclasses
import functools
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from qt_jax.agents import bc
from qt_jax.data import loader, mixture, tables
from qt_jax.data.loader import TrainingIterator
from qt_jax.data.mixtures import Share
from qt_jax.data.order import Draw
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.standardisers import collected, fractal_arm
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training import setup
from tests import tiny
from tests.conftest import ROOT
from tests.data.synthetic import LENGTHS

NUMBERS = DatasetSpec(
    path="", standardise=collected, action=ActionSpec(("x",), (0.0,), (1.0,), (25,)), observation=ObservationSpec((), (0, 0), 2, "e, t"),
    last_record="observation", reward="success", dt=0.1,
)  # fmt: skip

FRAMES_SPEC = dataclasses.replace(NUMBERS, observation=ObservationSpec(("front",), (16, 16), 2, "e, t"))


def make_config(**data):
    config = tiny.get_config()
    config.data.validation_fraction = 0.0
    config.data.update(data)
    return config


def make_recipe(root, file_format="tfrecord", spec=NUMBERS, **data):
    config = make_config(**data)
    own = {"numbers": dataclasses.replace(spec, path=f"{root}/numbers_{file_format}")}
    config.data.mixture = "numbers"
    return setup.prepare(config, tables.resolve(config.data, own))[1]


def frames_recipe(root, dataset="frames", **data):
    """Of the synthetic episodes with a camera, two of which have a damaged image."""
    config = make_config(**data)
    own = {"frames": dataclasses.replace(FRAMES_SPEC, path=f"{root}/{dataset}")}
    config.data.mixture = "frames"
    return setup.prepare(config, tables.resolve(config.data, own))[1]


def make_iterator(recipe, **overrides):
    return TrainingIterator(
        recipe, **(dict(batch_size=8, threads=2, shuffle_episodes=16, memory=2**24) | overrides)
    )


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def first_states(source, batch):
    """(episode, step) of the first record of each row."""
    statistics = source.index.statistics["state"]
    return np.rint(batch.state[:, 0] * np.asarray(statistics.std) + np.asarray(statistics.mean)).astype(int)


def steps_of(recipe, batch):
    """(episode, step) of each trainable transition, from the numbered states."""
    raw = batch.state * np.asarray(recipe.state_statistics["numbers"].std) + np.asarray(
        recipe.state_statistics["numbers"].mean
    )
    return [tuple(pair) for pair in np.rint(raw[batch.trainable]).astype(int)]


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
    """Told other tasks now and then, with frames that do not decode, of which the trainer itself hears."""
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
        draws.append(
            {
                (draw.group, draw.number)
                for number in range(6)
                for draw in host._plan._readers[0].batch(number)
            }
        )
        host.close()
        for batch, expected in zip(found, whole):
            equal(batch, jax.tree.map(lambda x, start=start: x[start : start + 4], expected))
    assert not draws[0] & draws[1], "a reading of an episode belongs to one host"


def test_every_transition_once_an_epoch(synthetic_root):
    """With one row there is no drift between rows: the first epoch is exactly every transition of every
    episode.
    """
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


def test_balance_of_kinds_in_every_batch(synthetic_root):
    recipe = make_recipe(synthetic_root, balance={"demonstrations": 0.5, "successes": 0.0, "failures": None})
    for batch in take(make_iterator(recipe), 10):
        assert batch.success.sum() == 4
    kinds = {
        int(np.rint(e)) % 3 for batch in take(make_iterator(recipe), 10) for e, _ in steps_of(recipe, batch)
    }
    assert kinds == {0, 2}
    natural = make_recipe(
        synthetic_root, balance={"demonstrations": 0.25, "successes": None, "failures": None}
    )
    assert 0.4 < np.mean([batch.success.mean() for batch in take(make_iterator(natural), 40)]) < 0.8


@pytest.mark.parametrize(
    "balance, message",
    [
        ({"demonstrations": 0.5, "successes": 0.6}, "sum to 1"),
        ({"demonstrations": 0.5, "successes": 0.1, "failures": 0.1}, "sum to 1"),
    ],
)
def test_a_balance_that_is_none_is_named(synthetic_root, balance, message):
    with pytest.raises(UserError, match=message):
        make_recipe(synthetic_root, balance=balance)


def test_a_share_of_a_kind_that_is_not_there_is_named(synthetic_root):
    recipe = make_recipe(synthetic_root, episodes="successes", balance={"failures": 0.5})
    with pytest.raises(UserError, match="a share of 0.5 failures, but .*numbers_tfrecord has none"):
        make_iterator(recipe)


def training_episodes(root, **data):
    return make_recipe(root, **data).mixture.sources[0].train.tolist()


def test_limits_keep_the_first_episodes_of_each_task_and_collector(synthetic_root):
    """Of 24 episodes every third is a demonstration, the others are noise; the odd ones are another task."""
    assert training_episodes(synthetic_root, limits=("demonstration=2", "noise=1")) == [0, 1, 2, 3, 6, 9]
    assert training_episodes(synthetic_root, limits=("noise=2",)) == [1, 2, 4, 5], "no others"
    assert training_episodes(synthetic_root, limits=("demonstration=99", "noise=99")) == list(range(24))
    nested = [
        set(training_episodes(synthetic_root, limits=(f"noise={n}", "demonstration=1"))) for n in range(4)
    ]
    assert nested[0] < nested[1] < nested[2] < nested[3]


def test_limits_count_training_episodes_and_leave_the_validation_split(synthetic_root):
    whole, limited = (
        make_recipe(synthetic_root, validation_fraction=0.5, limits=limits).mixture.sources[0]
        for limits in ((), ("noise=2",))
    )

    def of_task(odd):
        return [e for e in whole.train if e % 3 and e % 2 == odd][:2]

    assert limited.train.tolist() == sorted(of_task(0) + of_task(1)) and len(limited.train) == 4
    np.testing.assert_array_equal(limited.validation, whole.validation)


def test_a_filter_within_limits_leaves_the_datasets_outcomes(synthetic_root):
    mixture = make_recipe(synthetic_root, limits=("noise=2",), episodes="successes").mixture
    assert mixture.sources[0].train.tolist() == [1, 4]
    assert mixture.success()["all"] == {"success": 2 / 3, "episodes": 24}


def test_demonstrations_and_failures_leave_out_the_other_successes(synthetic_root):
    assert training_episodes(synthetic_root, episodes="demonstrations_and_failures") == [
        e for e in range(24) if e % 3 != 1
    ]


@pytest.mark.parametrize(
    "limits, message",
    [
        (
            ("nois=1", "noise=1"),
            r"config.data.limits names the collectors \['nois'\]; .*numbers_tfrecord has \['demonstration', 'noise'\]",
        ),
        (("noise",), r"config.data.limits has \['noise'\]; expected entries such as 'demonstration=10'"),
        (("noise=few", "demonstration=1", "noise=-1"), r"config.data.limits has \['noise=few', 'noise=-1'\]"),
    ],
)
def test_wrong_limits_are_named(synthetic_root, limits, message):
    with pytest.raises(UserError, match=message):
        make_recipe(synthetic_root, limits=limits)


@pytest.mark.parametrize("name", ["episodes", "action_bounds"])
def test_an_unknown_choice_is_named(name):
    with pytest.raises(UserError, match=rf"config.data.{name} is 'best'; expected one of \("):
        mixture.open_mixture(make_config(**{name: "best"}).data, [])


def test_weights_and_balances_of_a_mixture(synthetic_root):
    config = make_config()
    one = dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord")
    two = dataclasses.replace(
        one, path=f"{synthetic_root}/numbers_array_record", action=ActionSpec(("y",), (0.0,), (1.0,), (5,))
    )
    tables.MIXTURES["both"] = {"one": 3.0, "two": Share(1.0, {"failures": 1.0})}
    config.data.mixture = "both"
    try:
        recipe = setup.prepare(config, tables.resolve(config.data, {"one": one, "two": two}))[1]
    finally:
        del tables.MIXTURES["both"]
    assert recipe.mixture.interface.action.names == ("x", "y") and recipe.mixture.interface.action.bins == (
        25,
        5,
    )
    for batch in take(make_iterator(recipe), 8):
        of_two = batch.bins[:, 1] == 5
        assert of_two.sum() == 2 and not batch.success[of_two].any()
        np.testing.assert_array_equal(batch.bins[~of_two], [[25, 0]] * 6)
        assert not batch.tokens[of_two][..., 0].any() and not batch.action_mask[of_two][..., 0].any()


def test_hindsight_tells_other_tasks_and_never_a_paraphrase_or_what_was_achieved(synthetic_root):
    recipe = make_recipe(synthetic_root, relabel_rate=0.5)
    source = recipe.mixture.sources[0]

    def told(row):
        return int(np.argmin(np.abs(source.index.embeddings - row).sum(1)))

    relabelled = kept = 0
    for batch in take(make_iterator(recipe), 60):
        episodes = first_states(source, batch)[:, 0]
        for episode, row, flag, success in zip(episodes, batch.instruction, batch.relabelled, batch.success):
            own = (
                ("push the cube", "shove the cube")
                if episode % 2 == 0
                else ("lift the ring", "raise the ring")
            )
            assert (source.index.instructions[told(row)] in own) != flag
            assert not (flag and success)
            relabelled, kept = relabelled + flag, kept + (not flag)
        assert not batch.reward[batch.relabelled].any() and not batch.is_terminal[batch.relabelled].any()
    assert 0.4 < relabelled / (relabelled + kept) < 0.6
    achieving = dataclasses.replace(NUMBERS, achieves={"even": ("odd",)})
    for batch in take(make_iterator(make_recipe(synthetic_root, spec=achieving, relabel_rate=0.9)), 20):
        first = first_states(source, batch)[:, 0]
        even_success = (first % 2 == 0) & (first % 3 < 2)
        assert not batch.relabelled[even_success].any()
    near = make_recipe(synthetic_root, relabel_rate=0.9, paraphrase_cosine=0.01)
    assert not any(batch.relabelled.any() for batch in take(make_iterator(near), 5)), (
        "everything counts as a paraphrase"
    )


def test_hindsight_of_a_success_whose_last_observation_was_not_kept(synthetic_root):
    """As a failure it is a transition shorter. A cut of that one alone is read as it was."""
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


def test_step_penalty_and_the_value_range_that_follows(synthetic_root):
    config = make_config(step_penalty=0.01, mixture="numbers")
    own = {"numbers": dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord")}
    resolved, recipe, _ = setup.prepare(config, tables.resolve(config.data, own))
    gamma = config.discount ** (0.1 / config.dt_ref)
    np.testing.assert_allclose(resolved.value_range, (-0.01 / (1 - gamma), 1.0))
    (batch,) = take(make_iterator(recipe), 1)
    rewards = batch.reward[batch.trainable]
    assert set(np.round(rewards, 4)) <= {np.float32(-0.01), np.float32(0.99)}
    config.discount = 1.0
    with pytest.raises(UserError, match=r"no bound.*longest of the data has 24, which makes \(-0.24, 1\)"):
        setup.prepare(config, tables.resolve(config.data, own))
    config.value_range = (-0.24, 1.0)
    (batch,) = take(make_iterator(setup.prepare(config, tables.resolve(config.data, own))[1]), 1)
    assert batch.mc_return.min() >= np.float32(-0.24)


def test_an_agent_without_values_needs_no_value_range(synthetic_root):
    own = {"numbers": dataclasses.replace(NUMBERS, path=f"{synthetic_root}/numbers_tfrecord")}
    config = make_config(mixture="numbers", step_penalty=0.5)
    config.discount, config.agent = 1.0, bc.get_config()
    entries = tables.resolve(config.data, own)
    setup.prepare(config, entries)
    config.value_range = (0.0, 0.1)
    setup.prepare(config, entries)


def test_validation_covers_every_transition_once(synthetic_root):
    recipe = make_recipe(synthetic_root, validation_fraction=0.5)
    source = recipe.mixture.sources[0]
    batches = list(loader.validation_batches(recipe, loader.validation_draws(recipe, 1000), batch_size=4))
    seen = collections.Counter(pair for batch in batches for pair in steps_of(recipe, batch))
    assert seen == {(int(e), t): 1 for e in source.validation for t in range(LENGTHS[e])}
    assert {batch.tokens.shape[0] for batch in batches} == {4}
    assert len(loader.validation_draws(recipe, 5)) <= 5


def test_a_datasets_own_validation_split_is_validated_on_and_another_split_is_told(synthetic_root):
    recipe = frames_recipe(synthetic_root, "frames_splits", validation_fraction=0.5)
    source = recipe.mixture.sources[0]
    assert (len(source.train), len(source.validation)) == (8, 2)
    (batch,) = loader.validation_batches(recipe, loader.validation_draws(recipe, 100)[::2], batch_size=2)
    statistics = source.index.statistics["state"]
    assert set(np.rint(batch.state[:, 0, 0] * statistics.std[0] + statistics.mean[0])) == {8, 9}
    described = setup.describe(recipe)
    assert "8 training and 2 validation episodes of 10" in described
    assert "  validation is the dataset's own split 'val', nothing of 'train'" in described.splitlines()
    assert "  its split 'test', 2 episodes, is not read" in described.splitlines()


def test_quantile_bounds_and_the_share_clipped(synthetic_root):
    by_spec = make_recipe(synthetic_root).mixture.sources[0]
    np.testing.assert_allclose(by_spec.clipped(), 0.0)
    assert by_spec.bins_used() == [24]
    measured = make_recipe(synthetic_root, action_bounds="quantiles").mixture.sources[0]
    samples = np.concatenate([(np.arange(n) + 0.5) / 25 for n in LENGTHS])
    np.testing.assert_allclose(
        [measured.action.low[0], measured.action.high[0]], np.quantile(samples, [0.01, 0.99]), atol=1e-6
    )
    np.testing.assert_allclose(measured.clipped(), np.mean(samples > np.quantile(samples, 0.99)), atol=1e-9)


def test_statistics_of_the_whole_dataset(synthetic_root):
    statistics = make_recipe(synthetic_root).mixture.sources[0].index.statistics
    states = np.concatenate([[(e, t) for t in range(n + 1)] for e, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(statistics["state"].mean, states.mean(0))
    np.testing.assert_allclose(statistics["state"].std, states.std(0))
    np.testing.assert_allclose(statistics["state"].high, states.max(0))


def test_a_damaged_record_is_an_error_or_a_counted_skip(synthetic_root, tmp_path):
    shutil.copytree(f"{synthetic_root}/numbers_tfrecord", tmp_path / "numbers_tfrecord")
    (shard,) = (tmp_path / "numbers_tfrecord").glob("*/*00001-of*")
    content = bytearray(shard.read_bytes())
    content[40] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(
        UserError,
        match=r"00001-of-00003, episode 0: has a wrong checksum \(1 damaged of 24 episodes; .*max_skipped=0",
    ):
        make_recipe(tmp_path)
    recipe = make_recipe(tmp_path, max_skipped=1)
    assert len(recipe.mixture.sources[0].index) == 23
    assert "1 damaged episodes are skipped, the first: " in setup.describe(recipe)


def no_such_key(episode):
    return collected({**episode, "steps": {}})


@pytest.mark.parametrize(
    "standardise, message",
    [
        (no_such_key, "has no key 'observation', which no_such_key reads"),
        (functools.partial(no_such_key), "has no key 'observation', which no_such_key reads"),
        (fractal_arm, "is not what fractal_arm reads .IndexError"),
    ],
)
def test_data_of_another_layout_is_named(synthetic_root, standardise, message):
    with pytest.raises(UserError, match=f"numbers_tfrecord.*episode 0: {message}"):
        make_recipe(synthetic_root, spec=dataclasses.replace(NUMBERS, standardise=standardise))


def test_a_users_standardiser_reads_in_worker_processes(tmp_path, synthetic_root):
    """As docs/data.md has it: spec and function in one file, through the index's and the loader's processes."""
    (tmp_path / "numbers_tables.py").write_text(
        "import dataclasses\nfrom qt_jax.data.standardisers import collected\nfrom tests.data.test_loader import NUMBERS\n"
        "def mine(episode):\n    return collected(episode)\n"
        f"SPECS = {{'numbers': dataclasses.replace(NUMBERS, path='{synthetic_root}/numbers_tfrecord', standardise=mine)}}\n"
    )
    config = make_config(tables=str(tmp_path / "numbers_tables.py"), mixture="numbers", workers=2)
    recipe = setup.prepare(config, tables.resolve(config.data, {}))[1]
    for one, other in zip(
        take(make_iterator(recipe, workers=2, threads=1), 2),
        take(make_iterator(make_recipe(synthetic_root)), 2),
    ):
        equal(one, other)


def test_a_record_that_changes_under_the_run_is_named(synthetic_root, tmp_path):
    shutil.copytree(f"{synthetic_root}/numbers_tfrecord", tmp_path / "numbers_tfrecord")
    recipe = make_recipe(tmp_path)
    for shard in (tmp_path / "numbers_tfrecord").glob("*/*-of-*"):
        content = bytearray(shard.read_bytes())
        content[40] ^= 0xFF
        shard.write_bytes(content)
    with pytest.raises(UserError, match="has a wrong checksum, though it was sound when it was indexed"):
        take(make_iterator(recipe), 20)


@pytest.mark.parametrize(
    "mixture, message",
    [
        ("number", "did you mean 'numbers'"),
        ("fractal_army", "did you mean 'fractal_arm'"),
        ("zzz", "expected one of"),
    ],
)
def test_an_unknown_mixture_is_named(mixture, message):
    config = make_config(mixture=mixture)
    with pytest.raises(UserError, match=f"config.data.mixture is '{mixture}'.*{message}"):
        tables.resolve(config.data, {"numbers": NUMBERS})


def test_a_users_tables(tmp_path, synthetic_root):
    """One entry in a file of the user's, named from the config."""
    file = tmp_path / "lab.py"
    file.write_text(
        "import dataclasses\nfrom qt_jax.data.specs import SPECS\n"
        "SPECS = {'ours': dataclasses.replace(SPECS['fractal_arm'], path='fractal20220817_data')}\n"
        "MIXTURES = {'lab': {'ours': 2, 'bridge_v2': 1}}\n"
    )
    config = make_config(tables=str(file), mixture="lab", root=synthetic_root, bins=32)
    ours, bridge = tables.resolve(config.data, {})
    assert ours.weight == pytest.approx(2 / 3) and ours.spec.path == f"{synthetic_root}/fractal20220817_data"
    assert ours.spec.action.bins == (2, *(32,) * 6, 2) and bridge.spec.action.bins == (32,) * 6 + (2,)
    file.write_text("SPECS = 1 / 0")
    with pytest.raises(UserError, match="cannot be imported .ZeroDivisionError"):
        tables.resolve(config.data, {})
    config.data.tables = "nowhere.py"
    with pytest.raises(UserError, match="'nowhere.py', which is no file"):
        tables.resolve(config.data, {})


def test_the_loader_needs_no_tensorflow(synthetic_root):
    script = (
        "import sys; from tests.data.test_loader import make_recipe, make_iterator, take;"
        f"[take(make_iterator(make_recipe({synthetic_root!r}, f)), 2) for f in ('tfrecord', 'array_record')];"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
