"""`affordances`: are a checkpoint's values what a planner can go by?"""

from __future__ import annotations

from typing import Any

from etils import epath

from qt_jax.evaluation import affordance_evaluation, affordance_page


def main(config: Any) -> None:
    """Evaluates the values of the run in `config.workdir`, and prints how well they predict success."""
    summary, methods = affordance_evaluation.evaluate(config)
    print(affordance_page.table(methods))
    cost = ", ".join(f"{count}: {ms:.1f}" for count, ms in summary["cost"]["p50_ms"].items())
    print(f"ms for so many instructions at once: {cost}")
    print(f"page: {epath.Path(config.workdir) / affordance_page.PAGE}")
