"""One self-contained HTML page about a trained policy."""

from __future__ import annotations

from typing import Any

from etils import epath

from qt_jax import storage
from qt_jax.evaluation import affordance_page, plots
from qt_jax.evaluation.rollouts import Rollout

PAGE = "report.html"
CURVES = [
    "loss", "td_error", "conservative_loss", "q_taken", "q_other", "target", "mc_clamp_share",
    "auc_first_q", "cross_entropy", "token_accuracy", "grad_norm",
]  # fmt: skip


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
        score_name: what the scores of bins are, such as "Q".

    """
    records = storage.json_lines(folder / "metrics.jsonl")
    videos = folder / "videos"
    episodes = []
    for rollout in traced:
        assert rollout.frames is not None and rollout.scores is not None
        uri, data = plots.video(rollout.frames)
        videos.mkdir(exist_ok=True)
        (videos / f"{rollout.job.task}_{rollout.job.index}.mp4").write_bytes(data)
        episodes.append(
            {
                "rollout": rollout,
                "video": uri,
                "over_time": plots.value_over_time(rollout.chosen_scores, dims, score_name),
                "over_bins": plots.scores_over_bins(rollout.scores, dims, score_name, rollout.behaviour),
            }
        )
    groups = {"the data itself": summary["data"]}
    groups |= {name: method["tasks"] for name, method in methods.items()}
    page = affordance_page.TEMPLATES.get_template("report.html").render(
        title=title,
        summary=summary,
        methods=methods,
        bars=plots.success_bars(groups, sorted(summary["tasks"])),
        curves=plots.learning_curves(records, CURVES) if records else None,
        episodes=episodes,
        score_name=score_name,
    )
    (folder / PAGE).write_text(page)
    affordance_page.insert(folder)
