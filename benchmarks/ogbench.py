"""`python -m benchmarks.ogbench [ROW ...]`: trains and evaluates what is missing, a row at a time.

A row is SET,METHOD,TASK,SEED of experiments/ogbench.py, or the beginning of several. Without one it is every
method on cube-single-play and scene-play, one network for the five tasks, three seeds. Sets that are missing
are collected first. Results are JSON lines in experiments/results/ogbench.jsonl and their table beside it,
with the published rows. Stop it at any time: a run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
from pathlib import Path
from typing import Any

import jax

from benchmarks import results, runs
from experiments import ogbench
from qt_jax.training import checkpoints

EXPERIMENT = "experiments/ogbench.py"
OUTPUT, TABLE = results.ALL / "ogbench.jsonl", results.ALL / "ogbench.md"
SEEDS = 3
FIRST = [f"{name},{method},all" for name in ("cube-single-play", "scene-play") for method in ogbench.METHODS]

PUBLISHED = {
    "BC": {"cube-single-play": 5, "cube-double-play": 2, "scene-play": 5, "puzzle-3x3-play": 2},
    "IQL": {"cube-single-play": 83, "cube-double-play": 6, "scene-play": 28, "puzzle-3x3-play": 9},
    "ReBRAC": {"cube-single-play": 91, "cube-double-play": 12, "scene-play": 41, "puzzle-3x3-play": 22},
    "FQL": {"cube-single-play": 96, "cube-double-play": 29, "scene-play": 56, "puzzle-3x3-play": 30},
    "floq": {"cube-double-play": 41, "scene-play": 59, "puzzle-3x3-play": 35},
    "Q-Transformer, as others ran it": {"cube-double-play": 0, "scene-play": 7, "puzzle-3x3-play": 1},
    "PAC": {"cube-double-play": 30, "scene-play": 51, "puzzle-3x3-play": 28},
    "TQL": {"cube-double-play": 67, "scene-play": 61, "puzzle-3x3-play": 32},
}
"""Mean success of five networks, one a task, in %: 1M steps on 1M transitions.

arXiv:2602.01439 (TQL); cube-single-play is from arXiv:2502.02538 (FQL).
"""


FOOT = """

Success is the mean of the five tasks, in %. Published: as their authors trained and evaluated, with a
decision each 50 ms. What differs in ours: a decision is held for 250 ms; a batch is 32 segments
of 16 decisions, of which about 310 are trained, where theirs has 256; the last checkpoint alone is evaluated,
by 50 episodes a task and seed. Our sets are made by OGBench's policies and settings, with other seeds than
its files.
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
    """Returns the Markdown table of our rows, then the published ones; success is a mean of tasks in %."""
    head = (
        "who",
        "method",
        "networks",
        *ogbench.SETS,
        "seeds",
        "steps",
        "parameters",
        "transitions",
        "core-hours",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        name, method, task, _ = row["run"].split(",")
        kind = "one for five tasks" if task == "all" else "one a task"
        groups.setdefault((method, kind), {}).setdefault(name, []).append(row)
    for (method, kind), sets in groups.items():
        of_all = [row for of_set in sets.values() for row in of_set]
        facts = (_span(of_all, key) for key in ("steps", "parameters"))
        transitions = _span([{"n": 1000 * row["data_episodes"]} for row in of_all], "n")
        hours = f"{sum(row['core_hours'] for row in of_all):.1f}"
        seeds = str(len({row["run"].rpartition(",")[2] for row in of_all}))
        cells = [_cell(sets.get(name, [])) for name in ogbench.SETS]
        lines.append(
            f"| **ours** | {' | '.join((method, kind, *cells, seeds, *facts, transitions, hours))} |"
        )
    for method, success in PUBLISHED.items():
        cells = [str(success.get(name, "")) for name in ogbench.SETS]
        lines.append(
            f"| published | {method} | one a task | {' | '.join(cells)} | | 1,000,000 | | 1,000,000 | |"
        )
    return "\n".join(lines) + FOOT


def _cell(rows: list[dict[str, Any]]) -> str:
    """Returns the mean success of the tasks that the rows have, with how many, if not all five."""
    tasks: dict[str, list[float]] = {}
    for row in rows:
        for task, success in row["success"].items():
            tasks.setdefault(task, []).append(success)
    if not tasks:
        return ""
    mean = statistics.mean(map(statistics.mean, tasks.values()))
    return f"{100 * mean:.0f}" + ("" if len(tasks) == 5 else f" (of {len(tasks)} tasks)")


def _span(rows: list[dict[str, Any]], key: str) -> str:
    values = sorted({row[key] for row in rows})
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="ROW")
    chosen = wanted(parser.parse_args().names)
    known = {row["run"] for row in results.rows(OUTPUT)}
    if left := [row for row in chosen if row not in known]:
        commit = runs.code_commit(EXPERIMENT)
        for row in left:
            results.add(OUTPUT, run(row, commit))
            TABLE.write_text(table(results.rows(OUTPUT)))
    print(table(results.rows(OUTPUT)), end="")


if __name__ == "__main__":
    main()
