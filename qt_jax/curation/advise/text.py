"""What `advise` prints: the counts of a dataset, and what the rule makes of them, or why it makes nothing."""

from __future__ import annotations

from qt_jax.curation.advise import rule
from qt_jax.curation.advise.coverage import QUANTILE
from qt_jax.curation.advise.facts import FEATURES, READ, STATES, Facts, Group, Task
from qt_jax.curation.advise.rule import Condition, Rule
from qt_jax.curation.dataset_summary import LABELS, TOP


def counts(found: Facts) -> list[str]:
    """Returns the tables of what the dataset holds, and what their columns mean."""
    rows = [
        ("episodes", "by", "count", "median steps", "read", "edge bins", "near"),
        *map(_group, found.groups),
    ]
    tasks = [("task", "demonstrations", "autonomous", "succeed"), *map(_task, found.tasks[:TOP])]
    lines = [*_table(rows), "", *_table(tasks)]
    if len(found.tasks) > TOP:
        lines.append(f"... {len(found.tasks) - TOP:,} more")
    lines += ["", "what the rule may ask for:"]
    lines += [f"  {text}: {_number(found.features[name])}" for name, text in FEATURES.items()]
    lines += [
        "",
        "edge bins: the share of the actions' dims in the first or last bin, and the dim that is there most.",
        f"  At most {READ} episodes of each kind are read for this and the next column.",
    ]
    if not found.state_dim:
        return [*lines, "near: not measured; the dataset has no state, and images are not compared."]
    return [
        *lines,
        f"near: the share of at most {STATES} states an episode that are no farther from the task's",
        f"  demonstrations than {QUANTILE:.0%} of these are from one another (Euclidean, of the normalised",
        "  state). It says nothing of what only the images show, and needs two demonstrations of the task.",
    ]


def advice(found: Facts, choice: Rule, balance: Rule) -> list[str]:
    """Returns what to train, with the reasons and how often the rule was right; or that it does not say.

    Args:
        found: of the dataset.
        choice: the rule for `rule.CHOICES`.
        balance: the rule for `rule.BALANCES`.

    """
    if not any(task.demonstrations or task.succeed for task in found.tasks):
        return ["advice: collect successes first; no method here learns from failures alone"]
    lines, chosen = _said(found, choice, "advice", rule.CHOICES)
    if found.features["demonstrations"] and chosen in ("", "q_transformer"):
        lines += _said(found, balance, "batches of Q-Transformer", rule.BALANCES)[0]
    if found.features["by_person"]:
        lines.append(
            "people acted at known steps: imitating these (--config.data.episodes="
            "demonstrations_and_interventions) is in no rule, since one recipe alone has it"
        )
    return [*lines, "what each method did on which data: docs/which_method.md"]


def _said(found: Facts, own: Rule, what: str, choices: dict[str, str]) -> tuple[list[str], str]:
    """Returns what a rule says and how it was tested, and its choice; "" where it makes none."""
    ways = {"the rule": own.tested} | {f"always {name}": tested for name, tested in own.constants.items()}
    tested = [
        f"  on {own.cells} benchmark datasets, each of their {own.groups} recipes left out in turn:",
        *(
            f"    {way:26}the best choice on {figures.right:2}, {figures.lost:4.1f} points of success lost"
            for way, figures in ways.items()
        ),
    ]
    if not own.is_better:
        return [f"{what}: none, since the rule is no better than one choice for all", *tested], ""
    chosen, reason = own.decides.choose(found.features)
    return [f"{what}: {choices[chosen]}", f"  because {_reason(found, reason)}", *tested], chosen


def _reason(found: Facts, condition: Condition | None) -> str:
    if condition is None:
        return "none of the rule's conditions holds"
    side = "above" if condition.above else "not above"
    value = _number(found.features[condition.feature])
    return f"{FEATURES[condition.feature]}: {value} is {side} {_number(condition.threshold)}"


def _group(group: Group) -> tuple[str, ...]:
    most = max(group.edges, key=group.edges.__getitem__, default="")
    edge = sum(group.edges.values()) / len(group.edges) if most else None
    at_most = f" ({most} {group.edges[most]:.0%})" if most else ""
    near = "" if group.near is None else f"{group.near:.0%}"
    numbers = f"{group.episodes:,}", f"{group.median:g}", f"{group.read:,}"
    return (
        LABELS[group.kind],
        group.collector,
        *numbers,
        f"{'' if edge is None else f'{edge:.0%}'}{at_most}",
        near,
    )


def _task(task: Task) -> tuple[str, ...]:
    succeed = f"{task.succeed:,} ({task.succeed / task.autonomous:.0%})" if task.autonomous else ""
    return task.name, f"{task.demonstrations:,}", f"{task.autonomous:,}", succeed


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"
