"""`python -m benchmarks.ogbench [ROW ...]`: trains and evaluates what is missing, a row at a time.

A row is SET,METHOD,TASK,SEED of experiments/ogbench.py, or the beginning of several. Without one it is every
method on cube-single-play and scene-play, one network for the five tasks, three seeds. Sets that are missing
are collected first. Results are JSON lines in experiments/results/ogbench.jsonl and their table beside it,
with the published rows. Stop it at any time: a run goes on from its last checkpoint. `--output=again.jsonl`
runs again what is there already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import ogbench_published as published
from benchmarks import results, runs
from experiments import ogbench
from qt_jax.evaluation.statistics import success_rate
from qt_jax.training import checkpoints

EXPERIMENT = "experiments/ogbench.py"
OUTPUT = results.ALL / "ogbench.jsonl"
SEEDS = 3
FIRST = [f"{name},{method},all" for name in ("cube-single-play", "scene-play") for method in ogbench.METHODS]

FOOT = """
Success in %, of each task with a 95% Wilson interval over all episodes of all seeds. Published: as the papers
have it (FQL: arXiv:2502.02538; the others TQL: arXiv:2602.01439), with a decision each 50 ms. What differs in
ours: a decision is held for 250 ms; a batch is 32 segments of 16 decisions, of which about 310 are trained,
where theirs has 256; the last checkpoint alone is evaluated, by 50 episodes a task and seed. Our sets are
made by OGBench's policies and settings, with other seeds than its files. Settings were chosen on task 1 of
cube-single with seed 0, those of FQL's table on one task of each set.
"""


def wanted(names: list[str]) -> list[str]:
    """Returns the rows that some names stand for; ends the program for a name of none."""
    parts = (ogbench.SETS, ogbench.METHODS, ogbench.TASKS, map(str, range(SEEDS)))
    every = [",".join(row) for row in itertools.product(*parts)]
    for name in names:
        if not any(f"{row},".startswith(f"{name},") for row in every):
            raise SystemExit(
                f"{name!r} is no row; expected SET,METHOD,TASK,SEED of {', '.join(ogbench.SETS)}; "
                f"{', '.join(ogbench.METHODS)}; {', '.join(ogbench.TASKS)}; seeds below {SEEDS}."
            )
    return [row for row in every if any(f"{row},".startswith(f"{name},") for name in names or FIRST)]


def run(row: str, commit: str) -> dict[str, Any]:
    """Trains and evaluates a row; returns its line of the results."""
    config = ogbench.get_config(row)
    runs.collect(EXPERIMENT, row, config)
    before = _core_seconds()
    found = runs.train_and_evaluate(f"{EXPERIMENT}:{row}", Path(config.workdir))
    spent = _core_seconds() - before
    params, _, step = checkpoints.load_params(config.workdir)
    info = json.loads((Path(config.data.path) / "1.0.0/dataset_info.json").read_text())
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    return {
        "run": row,
        "success": {task: of_task["success"] for task, of_task in found["tasks"].items()},
        "episodes": config.evaluate.episodes,
        "steps": step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "data_episodes": sum(map(int, train["shardLengths"])),
        "core_hours": spent / 3600,
        "commit": commit,
        "machine": runs.MACHINE,
    }


def _core_seconds() -> float:
    """Returns the processor time of the commands that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown tables of our rows and the published ones: means of tasks, then each task."""
    head = (
        *("who", "method", "networks", *ogbench.SETS),
        *("seeds", "steps", "parameters", "transitions", "core-hours"),
    )
    lines = _head(head)
    for (method, networks), of_method in _groups(rows, _method).items():
        sets = _groups(of_method, lambda row: row["run"].split(",")[0])
        facts = (_span(of_method, key) for key in ("steps", "parameters"))
        transitions = _span([{"n": 1000 * row["data_episodes"]} for row in of_method], "n")
        hours = f"{sum(row['core_hours'] for row in of_method):.1f}"
        cells = [_mean(sets.get(name, [])) for name in ogbench.SETS]
        lines.append(
            _line("**ours**", method, networks, *cells, _seeds(of_method), *facts, transitions, hours)
        )
    for method, means in published.means().items():
        cells = [f"{means[name]:.0f}" if name in means else "" for name in ogbench.SETS]
        lines.append(_line("published", method, "one a task", *cells, "", "1,000,000", "", "1,000,000", ""))
    for name, of_set in _groups(rows, lambda row: row["run"].split(",")[0]).items():
        lines += ["", *_tasks_table(name, of_set)]
    return "\n".join(lines) + "\n" + FOOT


def _tasks_table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Returns the lines of a set's table of each task."""
    tasks = [task for task in ogbench.TASKS if task != "all"]
    lines = _head((name, "method", "networks", *tasks, "seeds"))
    for (method, networks), of_method in _groups(rows, _method).items():
        found = _of_tasks(of_method)
        cells = [_interval(found[task], of_method[0]["episodes"]) if task in found else "" for task in tasks]
        lines.append(_line("**ours**", method, networks, *cells, _seeds(of_method)))
    place = published.SETS.index(name)
    for method, of_sets in published.BY_TASK.items():
        lines.append(_line("published", method, "one a task", *map(str, of_sets[place]), "8"))
    return lines


def _head(names: tuple[str, ...]) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _groups(rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, list]:
    groups: dict[Any, list] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _method(row: dict[str, Any]) -> tuple[str, str]:
    _, method, task, _ = row["run"].split(",")
    return method, "one for five tasks" if task == "all" else "one a task"


def _seeds(rows: list[dict[str, Any]]) -> str:
    return str(len({row["run"].rpartition(",")[2] for row in rows}))


def _of_tasks(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns the success of each seed, {"task1": [...]}, of the tasks that the rows have."""
    tasks: dict[str, list[float]] = {}
    for row in rows:
        for task, success in row["success"].items():
            tasks.setdefault(task.rpartition("-")[2], []).append(success)
    return tasks


def _mean(rows: list[dict[str, Any]]) -> str:
    """Returns the mean success of the tasks that the rows have, with how many, if not all five."""
    tasks = _of_tasks(rows)
    if not tasks:
        return ""
    mean = statistics.mean(map(statistics.mean, tasks.values()))
    return f"{100 * mean:.0f}" + ("" if len(tasks) == 5 else f" (of {len(tasks)} tasks)")


def _interval(successes: list[float], episodes: int) -> str:
    """Returns the mean success over seeds, of as many episodes each, with its Wilson interval."""
    solved, played = round(sum(successes) * episodes), len(successes) * episodes
    found = success_rate([True] * solved + [False] * (played - solved))
    return "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * found[key] for key in ("success", "low", "high")))


def _span(rows: list[dict[str, Any]], key: str) -> str:
    values = sorted({row[key] for row in rows})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="ROW")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    output, chosen = arguments.output, wanted(arguments.names)
    known = {row["run"] for row in results.rows(output)}
    if left := [row for row in chosen if row not in known]:
        commit = runs.code_commit(EXPERIMENT)
        for row in left:
            results.add(output, run(row, commit))
            output.with_suffix(".md").write_text(table(results.rows(output)))
    print(table(results.rows(output)), end="")


if __name__ == "__main__":
    main()
