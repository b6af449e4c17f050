"""`python -m benchmarks.core_hours`: how long each part of `benchmarks.claim` will take on CPU cores.

It knows from the runs in experiments/results that had a core each. It takes the median time of a step of each
algorithm with each length of segment, window and number of outputs (or of the algorithm, where no run had
these), and of an evaluation episode. The time of the pools is not in it, and the cores may have done other
work.
"""

from __future__ import annotations

import collections
import statistics
from typing import Any

from benchmarks.claim import SEEDS, output_of, wanted
from benchmarks.results import rows
from qt_jax import agents
from qt_jax.envs import suites


def kind(config: Any) -> tuple[Any, ...]:
    """Returns what the time of a step depends on most; first the algorithm."""
    outputs = agents.get(config.agent.name).outputs(config)
    return config.agent.name, config.data.segment_length, config.model.window, outputs


def main() -> None:
    step, episode = collections.defaultdict(list), []
    configs = {part: wanted(part, [])[1] for part in SEEDS}
    for part, of_part in configs.items():
        for run in rows(output_of(part)):
            if run["device"] == "cpu" and run["together"] == 1 and run["run"] in of_part:
                config = of_part[run["run"]]
                for key in (kind(config), config.agent.name):
                    step[key].append(run["train_s"] / config.train.steps)
                episode.append(run["evaluate_s"] / sum(map(len, run["success"].values())))
    seconds = {key: statistics.median(values) for key, values in step.items()}
    print("| part | runs | core-hours |\n|---|---|---|")
    for part, of_part in configs.items():
        hours = 0.0
        for config in of_part.values():
            episodes = config.evaluate.episodes * len(suites.of(config).suite_tasks(config.env.tasks))
            of_step = seconds.get(kind(config), seconds[config.agent.name])
            hours += (config.train.steps * of_step + episodes * statistics.median(episode)) / 3600
        print(f"| {part} | {len(of_part)} | {hours:.0f} |")


if __name__ == "__main__":
    main()
