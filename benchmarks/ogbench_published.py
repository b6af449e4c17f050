"""What others published on OGBench's single-task play: success in %, a network a task.

1M steps on 1M transitions, a decision each 50 ms.
"""

from __future__ import annotations

import statistics

SETS = ("cube-single-play", "cube-double-play", "scene-play", "puzzle-3x3-play")

BY_TASK = {
    "BC": ((10, 3, 9, 2, 3), (8, 0, 0, 0, 0), (19, 1, 1, 2, 0), (5, 1, 1, 1, 1)),
    "IQL": ((88, 85, 91, 73, 78), (27, 1, 0, 0, 4), (94, 12, 32, 0, 0), (33, 4, 3, 2, 3)),
    "AWAC with a flow policy": (
        (81, 81, 87, 79, 78),
        (21, 2, 1, 0, 2),
        (87, 18, 38, 6, 0),
        (25, 4, 1, 1, 1),
    ),
    "ReBRAC": ((89, 92, 93, 92, 87), (45, 7, 4, 1, 4), (95, 50, 55, 3, 0), (97, 1, 3, 2, 5)),
    "FQL": ((97, 97, 98, 94, 93), (61, 36, 22, 5, 19), (100, 76, 98, 5, 0), (90, 16, 10, 16, 16)),
}
"""{method: of each of `SETS` the five tasks}: Table 3 of arXiv:2502.02538 (FQL), means of eight seeds."""

MEANS: dict[str, dict[str, float]] = {
    "floq": {"cube-double-play": 41, "scene-play": 59, "puzzle-3x3-play": 35},
    "Q-Transformer, as others ran it": {"cube-double-play": 0, "scene-play": 7, "puzzle-3x3-play": 1},
    "PAC": {"cube-double-play": 30, "scene-play": 51, "puzzle-3x3-play": 28},
    "TQL": {"cube-double-play": 67, "scene-play": 61, "puzzle-3x3-play": 32},
}
"""{method: {set: mean of the five tasks}}: arXiv:2602.01439 (TQL)."""


def means() -> dict[str, dict[str, float]]:
    """Returns the mean of the five tasks, {method: {set: %}}."""
    of_tasks = {
        method: {name: statistics.mean(map(float, tasks)) for name, tasks in zip(SETS, of_sets, strict=True)}
        for method, of_sets in BY_TASK.items()
    }
    return of_tasks | MEANS
