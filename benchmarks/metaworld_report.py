"""`make metaworld-report`: tables and figures of the benchmark, the ablations and the second suite.

Writes tables into experiments/results, docs/results.md and experiments/diagnosis.md, and figures into
docs/images.

Runs in a venv of its own (rliable's plots want an older pandas). A run's score is its success over a task's
evaluation episodes. Intervals are rliable's 95% stratified bootstrap, which draws the runs (seeds) of each
task again (Agarwal et al. 2021). On a recipe stand the methods that have all of its seeds. "METHOD by beam:4"
are the same runs as they decided in another way. An ablation is compared with Q-Transformer on the seeds that
it has, paired.
"""

from __future__ import annotations

import collections
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rliable import library, metrics

from benchmarks import paired, results

IMAGES = Path("docs/images")
RESULTS = "docs/results.md"
OURS = "q_transformer"
OURS_ON_PEOPLE = "q_transformer_dropout by beam:4"
REPETITIONS = 2000

Scores = dict[str, dict[str, np.ndarray]]
"""{recipe: {method: success [seeds, tasks]}}"""


def scores(found: list[dict[str, Any]]) -> Scores:
    by_seed: dict[str, dict[str, dict[int, list[float]]]] = collections.defaultdict(
        lambda: collections.defaultdict(dict)
    )
    for run in results.decoded(found):
        method, recipe, seed = run["run"].split(",")
        by_seed[recipe][method][int(seed)] = [
            float(np.mean(episodes)) for _, episodes in sorted(run["success"].items())
        ]
    result = {}
    for recipe, methods in sorted(by_seed.items()):
        every = sorted(set().union(*methods.values()))
        result[recipe] = {
            method: np.asarray([methods[method][seed] for seed in every])
            for method in sorted(methods, key=_order)
            if len(methods[method]) == len(every)
        }
    return result


def _order(method: str) -> tuple[bool, str]:
    """Makes a sort key that puts our methods first."""
    return not method.startswith(OURS), method


def estimates(
    by_name: dict[str, Any], statistic: Callable, repetitions: int = REPETITIONS
) -> tuple[dict, dict]:
    """Computes the statistic of each, and its 95% interval [low, high]; of one seed it means nothing."""
    np.random.seed(0)  # rliable 1.2.0 draws from here, whatever its random_state
    return library.get_interval_estimates(by_name, statistic, reps=repetitions)


def cost(found: list[dict[str, Any]]) -> str:
    """Says how long the runs on CPU cores took."""
    seconds = [
        run["train_s"] + run["evaluate_s"] for run in found if run["device"] == "cpu" and run["together"] == 1
    ]
    if not seconds:
        return f"{len(found)} runs."
    return f"{len(found)} runs, {len(seconds)} of them on a CPU core each, median {np.median(seconds):.0f} s."


def table(found: Scores) -> str:
    methods = sorted({method for by_method in found.values() for method in by_method}, key=_order)
    lines = [
        "| method | " + " | ".join(f"{recipe}: IQM (mean), %" for recipe in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]

    def both(x):
        return np.asarray([metrics.aggregate_iqm(x), metrics.aggregate_mean(x)])

    estimated = [estimates(by_method, both) for by_method in found.values()]
    for method in methods:
        cells = []
        for by_method, (points, intervals) in zip(found.values(), estimated):
            if method in points:
                interval = "{:.0f} [{:.0f}, {:.0f}]" if len(by_method[method]) > 1 else "{:.0f}"
                iqm, mean = (
                    interval.format(*(100 * value for value in own))
                    for own in zip(points[method], *intervals[method])
                )
                cells.append(f"{iqm} ({mean})")
            else:
                cells.append("not all seeds")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    seeds = ", ".join(
        f"{recipe}: {len(next(iter(by_method.values())))}" for recipe, by_method in found.items()
    )
    return "\n".join([*lines, "", f"Seeds: {seeds}."])


def by_task(found: Scores, tasks: list[str]) -> str:
    """Makes a table of the mean success over seeds of each method in each task."""
    lines = []
    for recipe, by_method in found.items():
        lines += [f"| recipe {recipe} | " + " | ".join(by_method) + " |", "|---" * (len(by_method) + 1) + "|"]
        means = [x.mean(0) for x in by_method.values()]
        lines += [
            f"| {task} | " + " | ".join(f"{mean[k]:.0%}" for mean in means) + " |"
            for k, task in enumerate(tasks)
        ]
        lines.append("")
    return "\n".join(lines)


LEARNED = (
    "transitions", "mc_return", "target", "q_taken", "q_greedy", "q_other", "action_gap", "greedy_is_taken",
    "greedy_at_edge", "weight",
)  # fmt: skip


def learned(found: list[dict[str, Any]]) -> str:
    """Makes a table of the learners' metrics over their last training batches, mean over seeds.

    "transitions" are those of a batch.
    """
    by_row: dict[tuple[str, str], list[dict[str, float]]] = collections.defaultdict(list)
    for run in found:
        if "metrics" in run:
            method, recipe, _ = run["run"].split(",")
            by_row[recipe, method].append(run["metrics"])
    if not by_row:
        return ""
    lines = ["| recipe | method | " + " | ".join(LEARNED) + " |", "|---" * (len(LEARNED) + 2) + "|"]
    for (recipe, method), own in sorted(by_row.items(), key=lambda row: (row[0][0], _order(row[0][1]))):
        known = {name: [metrics[name] for metrics in own if name in metrics] for name in LEARNED}
        cells = [
            f"{np.mean(x):.{0 if name == 'transitions' else 2}f}" if x else "" for name, x in known.items()
        ]
        lines.append(f"| {recipe} | {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def improvement(found: Scores, name: str, ours: str) -> str:
    """Draws the probability that a run of ours is above another method's on a task; returns its table."""
    others = sorted({method for by_method in found.values() for method in by_method if method != ours})
    figure, axes = plt.subplots(
        1,
        len(found),
        figsize=(2.6 + 3.0 * len(found), 1.45 + 0.25 * len(others)),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    columns = []
    for axis, (recipe, by_method) in zip(axes[0], found.items()):
        pairs = {other: (by_method[ours], by_method[other]) for other in others if other in by_method}
        points, intervals = estimates(pairs, metrics.probability_of_improvement, REPETITIONS // 2)
        middle = np.asarray([np.ravel(points[other])[0] for other in pairs])
        low, high = np.asarray([np.ravel(intervals[other]) for other in pairs]).T
        axis.errorbar(
            middle,
            [others.index(other) for other in pairs],
            xerr=[middle - low, high - middle],
            fmt="o",
            capsize=3,
        )
        axis.axvline(0.5, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(others)), others)
        axis.set_xlim(0, 1)
        axis.set_title(f"recipe {recipe}")
        cells = {other: f"{m:.2f} [{lo:.2f}, {hi:.2f}]" for other, m, lo, hi in zip(pairs, middle, low, high)}
        columns.append([cells.get(other, "not all seeds") for other in others])
    axes[0, 0].set_ylim(len(others) - 0.5, -0.5)
    figure.supxlabel(f"P({ours} above it on a task), 95%")
    figure.savefig(IMAGES / f"{name}_improvement.png", dpi=120)
    lines = [
        f"| P({ours} above it on a task) | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    lines += [f"| {other} | " + " | ".join(cells) + " |" for other, *cells in zip(others, *columns)]
    return "\n".join([*lines, ""])


def bars(found: Scores, name: str, tasks: list[str]) -> None:
    """Draws the mean success of each method in each task, as it decides best on the first recipe."""
    first, best = next(iter(found.values())), {}
    for method, x in first.items():
        own = best.setdefault(method.partition(" by ")[0], method)
        if x.mean() > first[own].mean():
            best[method.partition(" by ")[0]] = method
    figure, axes = plt.subplots(
        len(found), 1, figsize=(11, 2.6 * len(found)), squeeze=False, layout="constrained", sharex=True
    )
    for axis, (recipe, by_method) in zip(axes[:, 0], found.items()):
        for k, method in enumerate(best.values()):
            left = np.arange(len(tasks)) + k * 0.8 / len(best) - 0.4
            if method in by_method:
                style = {"label": method, "align": "edge", "color": f"C{k}"}
                axis.bar(left, by_method[method].mean(0), 0.8 / len(best), **style)
        axis.set_ylabel("success")
        axis.set_title(f"recipe {recipe}", loc="right", fontsize=10)
        axis.set_ylim(0, 1.02)
    axes[0, 0].legend(ncols=4, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    axes[-1, 0].set_xticks(range(len(tasks)), tasks, rotation=25, ha="right")
    figure.savefig(IMAGES / f"{name}_tasks.png", dpi=120)


def curves(found: list[dict[str, Any]], name: str) -> None:
    """Draws the mean success over training: of a few episodes at each point, and of all at the last."""
    by_step: dict[str, dict[int, list[list[float]]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for run in found:
        method = run["run"].split(",")[0]
        for step, success in [*run["curve"].items(), (run["steps"], run["success"])]:
            by_step[method][int(step)].append(
                [float(np.mean(episodes)) for _, episodes in sorted(success.items())]
            )
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in sorted(by_step, key=_order):
        steps = by_step[method]
        x = {str(step): np.asarray(values) for step, values in sorted(steps.items())}
        points, intervals = estimates(x, lambda x: np.asarray([metrics.aggregate_mean(x)]))
        at = [int(step) for step in x]
        (line,) = axis.plot(
            at,
            [points[step][0] for step in x],
            marker="o",
            label=method,
            linewidth=2.5 if method == OURS else 1.2,
        )
        low, high = np.asarray([intervals[step][:, 0] for step in x]).T
        axis.fill_between(at, low, high, color=line.get_color(), alpha=0.12)
    axis.set(xlabel="training steps", ylabel="mean success, 95%", ylim=(0, 1))
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(IMAGES / f"{name}_curves.png", dpi=120)


def insert(text: str, page: Path, part: str) -> None:
    """Writes between the lines of the page that mark the table of that part."""
    begin, end = f"<!-- {part}: written by make metaworld-report -->\n", f"<!-- end of {part} -->\n"
    place = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    content, count = place.subn(lambda _: text, page.read_text())
    if count != 1:
        between = f"{begin.strip()!r} and {end.strip()!r}"
        sys.exit(f"{page} has {count} places for {part}; expected one between {between}.")
    page.write_text(content)


def report(file: str, name: str, page: str, ours: str = OURS) -> None:
    """Writes the table and the figures of one part."""
    found = results.rows(results.ALL / file)
    by_recipe = {recipe: by_method for recipe, by_method in scores(found).items() if ours in by_method}
    if not by_recipe:
        print(f"{file}: no recipe yet of which {ours} has all seeds")
        return
    text, tasks = f"{table(by_recipe)} {cost(found)}\n", sorted(found[0]["success"])
    several = {recipe: by_method for recipe, by_method in by_recipe.items() if len(by_method[ours]) > 1}
    compared = improvement(several, name, ours) if several else ""
    pages = [text, compared, learned(found), by_task(by_recipe, tasks)]
    (results.ALL / file).with_suffix(".md").write_text("\n".join(filter(None, pages)))
    print(f"{file}\n{text}")
    insert(text, Path(page), name)
    bars(by_recipe, name, tasks)
    if with_curve := [run for run in found if "curve" in run]:
        curves(with_curve, name)


def only_table(file: str, name: str, page: str) -> None:
    insert(f"{table(scores(results.rows(results.ALL / file)))}\n", Path(page), name)


def ablated(file: str, of: str, name: str, page: str) -> None:
    """Writes how ablations differ from Q-Transformer, whose own runs are in the file `of`."""
    found, ours = paired.scores(file), paired.scores(of)
    recipes, methods = (sorted({key[place] for key in found}) for place in (1, 0))
    lines = ["| recipe | ablation | seeds | Q-Transformer there | ablated | difference |", "|---" * 6 + "|"]
    size = (3 + 3 * len(recipes), 1.5 + 0.25 * len(methods))
    figure, axes = plt.subplots(
        1, len(recipes), figsize=size, squeeze=False, layout="constrained", sharey=True
    )
    for (method, recipe), own in sorted(found.items(), key=lambda row: row[0][::-1]):
        whole = {seed: ours[OURS, recipe][seed] for seed in own}
        mean, half = paired.interval(own, whole)
        means = " | ".join(f"{np.mean(list(x.values())):.0%}" for x in (whole, own))
        difference = paired.difference(own, whole) or f"{mean:+.0%}"
        lines.append(
            f"| {recipe} | {method.removeprefix(f'{OURS}.')} | {len(own)} | {means} | {difference} |"
        )
        style = {"xerr": half, "fmt": "o"} if len(own) > 1 else {"fmt": "x"}
        axes[0, recipes.index(recipe)].errorbar(mean, methods.index(method), color="C0", capsize=3, **style)
    for axis, recipe in zip(axes[0], recipes):
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set(title=f"recipe {recipe}", xlim=(-1, 0.5), xticks=(-1, -0.5, 0, 0.5))
    axes[0, 0].set_yticks(range(len(methods)), [method.removeprefix(f"{OURS}.") for method in methods])
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel("success less Q-Transformer's, paired by seed, 95% t interval; x: one seed")
    figure.savefig(IMAGES / f"{name}.png", dpi=120)
    rows = results.rows(results.ALL / file)
    text = "\n".join([*lines, "", cost(rows), ""])
    (results.ALL / file).with_suffix(".md").write_text(text + "\n" + learned(rows))
    print(f"{file}\n{text}")
    insert(text, Path(page), name)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    report("metaworld/benchmark.jsonl", "metaworld", RESULTS)
    ablated("metaworld/ablations.jsonl", "metaworld/benchmark.jsonl", "ablations", "experiments/diagnosis.md")
    only_table("metaworld/benchmark_first.jsonl", "first choice", "experiments/diagnosis.md")
    report("metaworld/people.jsonl", "people", RESULTS, OURS_ON_PEOPLE)
    report("scene.jsonl", "scene", RESULTS)
    ablated("scene_ablations.jsonl", "scene.jsonl", "scene_ablations", "experiments/diagnosis.md")
    report("metaworld/images.jsonl", "images", RESULTS)


if __name__ == "__main__":
    main()
