"""Rolls a policy out in the simulator: success by task, videos and a report."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import tqdm
from etils import epath

from qt_jax import storage, text
from qt_jax.envs import collectors, suites
from qt_jax.evaluation import report, rollouts, runs, statistics
from qt_jax.evaluation.rollouts import Job, Rollout
from qt_jax.export import checkpoint_policy
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import GREEDY, Decoding

TABLE = "evaluation.txt"


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A policy, and what the tables and the report say of it.

    Attributes:
        actor: what acts.
        names: of the dims of a decision.
        agent: the algorithm's name.
        score_name: what the scores of its bins are, such as "Q"; "": it has none.
        decode: how it decides an action, such as "greedy".
        episodes: which episodes it was trained on, `config.data.episodes`; "": not known.
        step: of its checkpoint; None: not known.
        data: success in the training data by task, and of "all"; {}: not known.

    """

    actor: rollouts.Actor
    names: tuple[str, ...]
    agent: str
    score_name: str
    decode: str
    episodes: str
    step: int | None
    data: dict[str, Any]

    @property
    def method(self) -> str:
        """What it is called in tables."""
        decode = self.decode if self.decode != str(GREEDY) else ""
        return ", ".join(part for part in (self.agent, self.episodes, decode) if part)


def of_run(config: Any) -> Evaluated:
    """Loads the policy of the checkpoint that `config.evaluate` names, of the run in `config.workdir`.

    Raises:
        UserError: if there is none, or the run was made with other settings.

    """
    params, assets, step = runs.load(config)
    settings = config.evaluate
    decoding = Decoding.read(settings.decode)
    policy = checkpoint_policy.build(params, assets, settings.num_envs, settings.dataset, decoding)
    spec = policy.spec
    return Evaluated(
        actor=Sessions(policy, functools.partial(text.embed, encoder=spec.text_encoder)),
        names=spec.interface.decision.names,
        agent=assets.config["agent"]["name"],
        score_name=spec.score_name,
        decode=str(decoding),
        episodes=assets.config["data"]["episodes"],
        step=step,
        data=assets.data,
    )


def evaluate(config: Any, evaluated: Evaluated) -> dict[str, Any]:
    """Rolls a policy out, and writes evaluation.json, its table, videos and the report into `config.workdir`.

    Returns:
        What evaluation.json has: success with intervals by task ("tasks") and of all ("overall"), the data's
        own ("data"), and success under another task's instruction ("language").

    """
    settings, suite = config.evaluate, suites.of(config)
    task_names = suite.suite_tasks(config.env.tasks)
    references = runs.references(config, task_names, "evaluation.json", "evaluate")

    # Every task with its own instruction; where two share a scene, also with the other's.
    episodes = range(settings.episodes)
    pairs = [pair for pair in suite.SHARED_SCENES if set(pair) <= set(task_names)]
    swaps = [swap for a, b in pairs for swap in ((a, b), (b, a))]
    swapped = [Job(a, i, suite.INSTRUCTIONS[b][0]) for a, b in swaps for i in episodes]
    rolled_out = roll_out(
        config, evaluated.actor, sorted(own_jobs(config) + swapped, key=lambda job: job.task)
    )
    swap_results = [r for r in rolled_out if r.job in swapped]
    results = [r for r in rolled_out if r.job not in swapped]

    summary = statistics.summarize(results)
    summary["language"] = [
        {
            "task": a,
            "own": summary["tasks"][a],
            "other_instruction": suite.INSTRUCTIONS[b][0],
            "other": statistics.success_rate([r.success for r in swap_results if r.job.task == a]),
        }
        for a, b in swaps
    ]
    summary |= {
        "method": evaluated.method,
        "step": evaluated.step,
        "seed": settings.seed,
        "data": evaluated.data,
    }

    methods = runs.by_method({config.workdir: summary} | references)
    folder = epath.Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    report.write(
        folder,
        title=f"{evaluated.agent} on {', '.join(task_names)}",
        summary=summary,
        methods=methods,
        traced=[r for r in results if r.frames is not None],
        dims=evaluated.names,
        score_name=evaluated.score_name,
    )
    (folder / TABLE).write_text(_table(summary, methods) + "\n")

    # Last: whoever finds it (make, a later evaluation that names this run as a reference) finds the rest.
    path = folder / "evaluation.json"
    with storage.writing(path):
        storage.replace_text(path, json.dumps(summary, indent=1) + "\n")
    return summary


def own_jobs(config: Any) -> list[Job]:
    """Returns the episodes of each task with its own instruction."""
    suite, episodes = suites.of(config), range(config.evaluate.episodes)
    tasks = suite.suite_tasks(config.env.tasks)
    return [Job(task, index, suite.INSTRUCTIONS[task][0]) for task in tasks for index in episodes]


def roll_out(config: Any, actor: rollouts.Actor, jobs: list[Job]) -> list[Rollout]:
    """Runs the episodes, each from the start that the config's seed gives it."""
    settings, suite = config.evaluate, suites.of(config)
    env_config = runs.env_config(config)

    def begin(env: Any, job: Job) -> list[Any]:
        observation, _ = env.reset(seed=collectors.evaluation_seed(config, job.task, job.index))
        return [observation]

    def trace(job: Job) -> bool:
        return job.index < settings.videos and job.instruction == suite.INSTRUCTIONS[job.task][0]

    with tqdm.tqdm(total=len(jobs), desc="evaluate", unit="episode") as bar:
        return rollouts.run(
            actor,
            settings.num_envs,
            jobs,
            lambda task: suite.Environment(task, env_config),
            begin,
            trace=trace,
            on_done=lambda rollout: bar.update(),
        )


def _table(summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    width = max(20, *map(len, methods)) + 2

    def cell(row: dict[str, Any]) -> str:
        return f"{row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"

    def line(name: str, data: str, cells: Any) -> str:
        return f"{name:24}{data:>8}" + "".join(f"{cell:>{width}}" for cell in cells)

    def share(name: str) -> str:
        return f"{summary['data'][name]['success']:.0%}" if summary["data"] else "-"

    lines = [line("success (95% Wilson)", "data", methods)]
    for task in summary["tasks"]:
        lines.append(line(task, share(task), [cell(method["tasks"][task]) for method in methods.values()]))
    lines.append(line("all", share("all"), [cell(method["overall"]) for method in methods.values()]))

    for row in summary["language"]:
        other = f"{cell(row['other'])} when told {row['other_instruction']!r}"
        lines.append(f"language: {row['task']} succeeds {cell(row['own'])} when told so, {other}")
    return "\n".join(lines)
