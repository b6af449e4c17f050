"""One self-contained HTML page about a trained policy."""

from __future__ import annotations

from typing import Any

from etils import epath

from qt_jax import storage
from qt_jax.evaluation import affordance_page, plots
from qt_jax.evaluation.rollouts import Rollout

PAGE = "report.html"
CURVES = [
    "loss", "td_error", "conservative_loss", "q_taken", "q_other", "target", "auc_first_q",
    "cross_entropy", "token_accuracy", "grad_norm",
]  # fmt: skip
BOTH = ("train", "validation")
WATCHED = {
    "Q of what was done": {
        "validation/q/success": "successes", "validation/q/failure": "failures",
    },
    "Q - the return that followed": {
        "validation/q_bias/success": "successes", "validation/q_bias/failure": "failures",
    },
    "memorisation: Q, training - held-out": {
        "memorisation/success": "successes", "memorisation/failure": "failures",
    },
    "targets that the return lifts": {f"{part}/mc_clamp_share": part for part in BOTH},
    "greedy bins": {
        "validation/greedy_is_taken": "that taken",
        "validation/greedy_is_most_probable": "the head's most probable",
        "validation/greedy_is_most_frequent": "the most frequent",
        "validation/greedy_at_edge": "at an edge",
        "validation/taken_is_most_frequent": "taken: the most frequent",
    },
}  # fmt: skip
"""{panel: {metric: label}} of the section "What to watch" (docs/method.md), without those of attention."""


def write(
    folder: epath.Path,
    *,
    title: str,
    summary: dict[str, Any],
    methods: dict[str, dict[str, Any]],
    traced: list[Rollout],
    dims: tuple[str, ...],
    score_name: str,
) -> None:
    """Writes `report.html` and `videos/*.mp4` into the run's directory.

    Args:
        folder: the run's directory.
        title: of the page.
        summary: what evaluation.json has: rows of the tasks and overall, the data's own under "data", success
            under another task's instruction under "language".
        methods: {name: summary} of this and other methods, shown side by side.
        traced: rollouts with frames, shown as videos.
        dims: names of the action's dims.
        score_name: what the scores of bins are, such as "Q"; "": there are none.

    """
    records = storage.json_lines(folder / "metrics.jsonl")
    learning = {name: {f"{part}/{name}": part for part in BOTH} for name in CURVES}
    videos = folder / "videos"
    episodes = []
    for rollout in traced:
        assert rollout.frames is not None
        uri, data = plots.video(rollout.frames)
        videos.mkdir(exist_ok=True)
        (videos / f"{rollout.job.task}_{rollout.job.index}.mp4").write_bytes(data)
        episodes.append(
            {
                "rollout": rollout,
                "video": uri,
                "scores": score_name and _scores(rollout, dims, score_name),
            }
        )
    groups = {"the data itself": summary["data"]} if summary["data"] else {}
    groups |= {name: method["tasks"] for name, method in methods.items()}
    page = affordance_page.TEMPLATES.get_template("report.html").render(
        title=title,
        summary=summary,
        methods=methods,
        bars=plots.success_bars(groups, sorted(summary["tasks"])),
        curves=plots.curves(records, learning),
        watched=plots.curves(records, WATCHED | _attention(records)),
        episodes=episodes,
        score_name=score_name,
    )
    (folder / PAGE).write_text(page)
    affordance_page.insert(folder)


def _scores(rollout: Rollout, dims: tuple[str, ...], name: str) -> list[str]:
    """Returns pictures of an episode's scores: of the chosen bins over time, and of all bins."""
    assert rollout.scores is not None
    return [
        plots.value_over_time(rollout.chosen_scores, dims, name),
        plots.scores_over_bins(rollout.scores, dims, name, rollout.behaviour),
    ]


def _attention(records: list[dict[str, float]]) -> dict[str, dict[str, str]]:
    """Returns panels of the layers' attention entropy and of the weights that hold it, as in `WATCHED`."""
    names = dict.fromkeys(name for record in records for name in record)  # in their order, each once
    panels = {
        "attention entropy": "validation/attention_entropy/",
        "weight of the entropy": "train/entropy_weight/",
    }
    return {
        title: {
            name: name.removeprefix(prefix).replace("_", " ") for name in names if name.startswith(prefix)
        }
        for title, prefix in panels.items()
    }
