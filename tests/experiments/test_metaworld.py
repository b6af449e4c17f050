"""The configs of the diagnosis and of the benchmark, and one tiny run through their runner."""

import json

import pytest

from benchmarks import claim, fleet, metaworld_states, metaworld_tries, packs, paired, results
from benchmarks import metaworld_images as metaworld_images_runner
from benchmarks import metaworld_improve as metaworld_improve_runner
from experiments import metaworld_benchmark, metaworld_eyes, metaworld_images, metaworld_improve
from experiments.metaworld_recipes import METHODS, RECIPES
from experiments.metaworld_tries import SEED_0
from qt_jax.cli.settings import flattened
from qt_jax.improvement import settings as rounds
from qt_jax.training.config import validate


@pytest.mark.parametrize("part", list(claim.SEEDS))
def test_every_run_has_a_valid_config_and_a_directory_of_its_own(part):
    _, configs = claim.wanted(part, [])
    for config in configs.values():
        validate(config, devices=1)
    assert len({config.workdir for config in configs.values()}) == len(configs)


def test_tries_are_pooled_over_the_seeds_that_both_cells_have():
    def row(cell, seed, success):
        return {"run": f"bc.x,{cell},{seed}", "success": {"push": [success]}, "metrics": {}}

    text = metaworld_tries.table([row("noise", 0, True), row("noise", 1, False), row("systematic", 0, True)])
    assert [line.split(" | ")[1:4] for line in text.splitlines()[2:]] == [
        ["noise", "2", "50% [9%, 91%]"],
        ["systematic", "1", "100% [21%, 100%]"],
        ["together", "1", "100% [34%, 100%]"],
    ]


def test_each_way_of_deciding_has_a_row():
    run = {
        "run": "bc,x,0",
        "success": {"push": [True]},
        "metrics": {},
        "decoded": {"beam:4": {"push": [False]}},
    }
    text = metaworld_tries.table(results.decoded([run]))
    assert [line.split(" | ")[:4] for line in text.splitlines()[2::2]] == [
        ["| bc", "x", "1", "100% [21%, 100%]"],
        ["| bc by beam:4", "x", "1", "0% [0%, 79%]"],
    ]


def test_a_row_and_a_run_can_be_named():
    def names(*given):
        return list(claim.wanted("benchmark", list(given))[1])

    assert names("iql,a") == [f"iql,a,{seed}" for seed in range(5)]
    assert names("iql,a,3", "awac,b,0") == ["awac,b,0", "iql,a,3"]
    assert len(names("bc_all")) == 25
    known = "names: awac, .* cells: a, b, c, d, e; seeds: 0, 1,"
    with pytest.raises(SystemExit, match=f"'bc' is none of the 270 runs of benchmark. {known}"):
        names("bc")


def test_what_seed_0_decided_against_is_not_run_on_the_others():
    _, configs = claim.wanted("tries", [])

    def seeds(name):
        return [run.split(",")[-1] for run in configs if run.startswith(f"{name},few_noise,")]

    assert all(seeds(name) == ["0"] for name in SEED_0)
    assert seeds("cql.half_fast_ended_skip_5_cold") == ["0", "1", "2"]


def test_differences_are_paired_by_seed():
    # The differences are .1 and .3; t of one degree of freedom is 12.7.
    assert paired.difference({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.4}) == "+20% [-107%, +147%]"
    assert paired.difference({0: 0.5}, {0: 0.4}) == ""


def test_files_that_are_not_there_or_hold_no_evaluations_are_refused():
    with pytest.raises(
        SystemExit, match="nosuch.jsonl does not exist; experiments/results has .*metaworld/benchmark.jsonl"
    ):
        paired.main("nosuch.jsonl", "q_transformer", "bc_all")
    with pytest.raises(SystemExit, match="rows without 'success'"):
        paired.main("metaworld/values.jsonl", "q_transformer", "bc_all")


def test_bins_are_ablated_with_alpha_over_bins_held():
    def strength(config):
        return config.agent.alpha / ((config.data.bins or config.env.bins) - 1)

    def of(method):
        return metaworld_benchmark.get_config(f"{method},b,0")

    for bins in (16, 32):
        assert of(f"q_transformer.bins_{bins}").data.bins == bins
        assert strength(of(f"q_transformer.bins_{bins}")) == pytest.approx(strength(of("q_transformer")))


def test_a_part_that_is_complete_is_no_error(monkeypatch, capsys, tmp_path):
    for run in claim.wanted("grid", [])[1]:
        results.add(tmp_path / "done.jsonl", {"run": run})
    monkeypatch.setattr("sys.argv", ["claim", "grid", f"--output={tmp_path}/done.jsonl"])
    claim.main()
    assert capsys.readouterr().out.startswith(f"{tmp_path}/done.jsonl holds all of these runs")


def test_every_ablation_is_valid_on_every_recipe():
    for recipe in RECIPES:
        for method in METHODS:
            validate(metaworld_benchmark.get_config(f"{method},{recipe},0"), devices=1)


def test_runs_from_images_are_valid_and_see_no_object_poses():
    for method in metaworld_images_runner.METHODS:
        for recipe in metaworld_images_runner.RECIPES:
            config = metaworld_images.get_config(f"{method},{recipe},0")
            validate(config, devices=1)
            assert config.env.cameras and config.env.state == "proprioception"
            assert config.data.limits == RECIPES[recipe][0]


def test_runs_with_other_eyes_are_valid_and_differ_in_nothing_else():
    configs = {eyes: metaworld_eyes.get_config(f"{eyes},1") for eyes in metaworld_eyes.EYES}
    flat = {eyes: flattened(config) for eyes, config in configs.items()}
    for eyes, config in configs.items():
        validate(config, devices=1)
        others = {key for key, value in flat[eyes].items() if value != flat["patch"][key]}
        assert {key.removeprefix("--config.") for key in others} <= {*metaworld_eyes.EYES[eyes], "workdir"}


def test_rounds_begin_with_demonstrations_alone_and_differ_in_the_method():
    def of(method, start="ten"):
        config = metaworld_improve.get_config(f"{method},{start},3")
        validate(config, devices=1)
        rounds.check(config)
        return config

    configs = {method: of(method) for method in metaworld_improve.METHODS}
    shares = {method: round(config.improve.new_share, 6) for method, config in configs.items()}
    assert shares == dict.fromkeys(shares, 0.5) | {"decision_transformer": 0.7}
    for config in configs.values():
        assert config.collect.autonomous == 0 and not any(config.data.balance.values())
    same = ("collect", "evaluate", "env")
    assert len({str([config[part] for part in same]) for config in configs.values()}) == 1
    assert of("awac", "poor").collect.demonstrations == 3


def test_the_last_round_is_compared_with_the_start_and_with_imitation():
    def run(method, seed, *rounds):
        of_round = [{"push": [True] * good + [False] * (10 - good)} for good in rounds]
        return {"run": f"{method},ten,{seed}", "success": of_round}

    ours = [run("q_transformer_dropout", seed, 2, 4 + seed, 6 + 2 * seed) for seed in (0, 1)]
    theirs = [run("bc_successes", seed, 2, 2, 3) for seed in (0, 1)]
    lines = metaworld_improve_runner.table(ours + theirs).splitlines()
    assert lines[2].startswith("| ten | q_transformer_dropout | 2 | 20% | 45% | 70% | +50% [")
    assert lines[3] == "| ten | bc_successes | 2 | 20% | 20% | 30% | +10% [+10%, +10%] |"
    assert lines[5].startswith("ten, after the last round: q_transformer_dropout less bc_successes +40% [")


def test_no_other_method_has_fewer_tries_than_ours():
    counts = {agent: len(tries) for agent, tries in claim.TRIES.items()}
    assert counts["q_transformer"] == min(counts.values()) == 15


def test_a_methods_filter_narrows_its_recipes():
    def episodes(method, recipe):
        return metaworld_benchmark.get_config(f"{method},{recipe},0").data.episodes

    assert episodes("q_transformer", "b") == episodes("bc_all", "b") == "demonstrations_and_failures"
    assert episodes("bc_successes", "b") == "demonstrations" and episodes("bc_successes", "a") == "successes"


@pytest.mark.parametrize("recipe", ["h", "i", "j"])
def test_recipes_with_people_are_collected_by_their_clone(recipe):
    clone, other = (metaworld_benchmark.get_config(f"{method},{recipe},2") for method in ("clone", "iql"))
    assert clone.data.path.endswith("people_alone_2")
    assert other.collect.policy == clone.workdir and other.data.path != clone.data.path
    assert (clone.collect.demonstrator, clone.collect.autonomous, clone.data.episodes) == (
        "human",
        0,
        "demonstrations",
    )
    assert clone.env == other.env and clone.collect.seed == other.collect.seed == 2
    assert (other.data.idle, clone.data.idle) == ("delta:0.01" if recipe == "j" else "", "")


def test_a_pack_is_run_once(config, tmp_path):
    config.env.cameras = ()
    config.train.steps, config.evaluate.episodes, config.evaluate.max_decisions = 2, 1, 3
    other = config.copy_and_resolve_references()
    other.seed += 1
    coarse = other.copy_and_resolve_references()
    coarse.data.bins, coarse.data.segment_length = 8, 7
    pack, output = tmp_path / "tiny.pack", tmp_path / "runs.jsonl"
    packs.write(
        {"one": config, "other": other, "coarse": coarse},
        pack,
        {"one": (1,)},
        {"one": ("beam:2",)},
        commit="abc",
    )
    for _ in range(2):
        fleet.run(pack, output, together=2, processes=1)
        lines = [json.loads(line) for line in output.read_text().splitlines()]  # a program's as it ends
        assert sorted(line["run"] for line in lines) == ["coarse", "one", "other"]
    assert all(list(line["success"]) == ["faucet-open", "faucet-close"] for line in lines)
    one, other, coarse = (
        next(line for line in lines if line["run"] == run) for run in ("one", "other", "coarse")
    )
    assert "curve" not in other and "decoded" not in other
    assert one["decoded"]["beam:2"].keys() == one["success"].keys()
    counts = {task: len(episodes) for task, episodes in one["curve"]["1"].items()}
    assert counts == dict.fromkeys(one["success"], 2)
    assert one["metrics"]["loss"] != other["metrics"]["loss"]
    assert 0 < one["train_s"] < 600 and one["commit"] == "abc"
    assert [one["together"], other["together"], coarse["together"]] == [2, 2, 1]


@pytest.mark.slow
def test_states_are_measured_beside_demonstrations_that_the_run_does_not_see(config, tmp_path):
    config.env.cameras, config.data.limits, config.data.validation_fraction = (), ("demonstration=1",), 0.0
    config.train.steps, config.evaluate.episodes, config.evaluate.max_decisions = 2, 1, 3
    configs = metaworld_states.configs(["bc,a,0"], lambda name: config.copy_and_resolve_references())
    packs.write(configs, tmp_path / "states.pack", commit="abc")
    beside = [name for name in configs if name != "bc,a,0"]
    pack, output = tmp_path / "states.pack", tmp_path / "states.jsonl"
    fleet.run(pack, output, processes=1, do=metaworld_states.measure, beside=beside)
    (row,) = results.rows(output)
    assert row["run"] == "bc,a,0" and row["commit"] == "abc"
    assert set(row["tasks"]) == {"faucet-open", "faucet-close"}
    for found in row["tasks"].values():
        assert found["same"] < 1 and 0 < found["bins_off"] < 16
        assert found["success"] == 0 and "score_in_success" not in found
    assert "| faucet-open | bc | " in metaworld_states.table([row])
