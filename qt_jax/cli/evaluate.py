"""`evaluate`: the latest checkpoint of config.workdir in the simulator; writes evaluation.json."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tqdm

from qt_jax import text
from qt_jax.envs import collectors, metaworld
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.errors import UserError
from qt_jax.evaluation import live_policy, rollouts, statistics


def main(config: Any) -> None:
    task_names = metaworld.suite_tasks(config.env.tasks)
    policy, assets, step = live_policy.load(config.workdir, config.evaluate.num_envs)
    if assets.observation != metaworld.observation_spec(config.env) or assets.action != metaworld.action_spec(config.env):
        raise UserError(f"{config.workdir} was trained with another config.env; evaluate with the config it was trained with.")
    results = run(config, policy, [rollouts.Job(t, i, tasks.INSTRUCTIONS[t][0]) for t in task_names for i in range(config.evaluate.episodes)])
    summary = statistics.summarize(results) | {"step": step, "agent": assets.config["agent"]["name"], "seed": config.evaluate.seed}
    path = Path(config.workdir) / "evaluation.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    for task, row in summary["tasks"].items():
        print(f"{task:28}{_row(row)}")
    print(f"{'all':28}{_row(summary['overall'])}\n{path}")


def run(config: Any, policy: Any, jobs: list[rollouts.Job]) -> list[rollouts.Rollout]:
    """The rollouts of `jobs` in the suite of `config.env`, with a progress bar."""
    with tqdm.tqdm(total=len(jobs), desc="evaluate", unit="episode") as bar:
        return rollouts.run(
            policy,
            jobs,
            lambda task: metaworld.MetaWorldEnv(task, config.env),
            lambda job: collectors.environment_seed(
                collectors.episode_seed("evaluate", config.evaluate.seed, job.task, job.index)
            ),
            functools.partial(text.embed, encoder=policy.spec.text_encoder),
            trace=lambda job: job.index < config.evaluate.videos,
            on_done=lambda rollout: bar.update(),
        )


def _row(row: dict[str, Any]) -> str:
    return f"{row['success']:6.0%}  [{row['low']:.0%}, {row['high']:.0%}]  {row['episodes']} episodes, {row['mean_length']:.1f} decisions"
