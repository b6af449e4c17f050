"""`evaluate`: the checkpoint of config.workdir, or a served policy, in the simulator; evaluation.json, videos
and report.html go there.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from typing import Any

import tqdm
from absl import flags
from etils import epath

from qt_jax import storage, text
from qt_jax.envs import collectors, gl, suites
from qt_jax.errors import UserError
from qt_jax.evaluation import report, rollouts, statistics
from qt_jax.evaluation.rollouts import Job
from qt_jax.export import checkpoint_policy
from qt_jax.policy.observations import Keys
from qt_jax.policy.sessions import Sessions
from qt_jax.serving import access, client
from qt_jax.training import checkpoints
from qt_jax.training.continuing import SAME_NUMBERS

FREE = ("workdir", "evaluate", "collect", "mesh", "distributed", "data", "optimizer", "seed", "train",
        *SAME_NUMBERS)  # fmt: skip
"""What a policy's behaviour does not depend on once it is trained."""


def define_flags() -> None:
    flags.DEFINE_string(
        "policy",
        "",
        "ws:// or wss:// URL of a served policy to evaluate instead of config.workdir's checkpoint.",
    )
    flags.DEFINE_string(
        "api_key_file", "", "File with the server's API key; else the environment's QT_JAX_API_KEY."
    )
    flags.DEFINE_string(
        "ca", None, "PEM file of the certificates to trust, where the server at wss:// signed its own."
    )


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What acts, and what the tables and the report say of it. data: success in the training data, as in the
    checkpoint's assets.
    """

    actor: rollouts.Actor
    action_names: tuple[str, ...]
    agent: str
    score_name: str
    episodes: str
    step: int
    data: dict[str, Any]


def main(config: Any) -> None:
    check(config)
    evaluated = _served(config) if flags.FLAGS.policy else _checkpoint(config)
    _, table, page = roll_out(config, evaluated)
    print(f"{table}\nreport: {page}")


def evaluate(config: Any) -> dict[str, Any]:
    """As the command without flags, but for what it prints; returns what it writes to evaluation.json."""
    check(config)
    return roll_out(config, _checkpoint(config))[0]


def roll_out(config: Any, evaluated: Evaluated) -> tuple[dict[str, Any], str, Any]:
    """Rolls a policy out and writes evaluation.json, videos and the report into config.workdir.

    Returns:
        The summary that evaluation.json has, its table as text, and the report's path.

    """
    settings, suite = config.evaluate, suites.of(config)
    task_names = suite.suite_tasks(config.env.tasks)
    references = {
        workdir: reference(workdir, task_names, "evaluation.json", "evaluate")
        for workdir in settings.references
    }
    episodes = range(settings.episodes)
    own = [Job(task, i, suite.INSTRUCTIONS[task][0]) for task in task_names for i in episodes]
    swaps = [
        (a, b) for pair in suite.SHARED_SCENES if set(pair) <= set(task_names) for a, b in (pair, pair[::-1])
    ]
    swapped = [Job(a, i, suite.INSTRUCTIONS[b][0]) for a, b in swaps for i in episodes]
    results = _run(config, evaluated.actor, sorted(own + swapped, key=lambda job: job.task))
    swap_results = [r for r in results if r.job in swapped]
    results = [r for r in results if r.job not in swapped]

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
    method = f"{evaluated.agent}, {evaluated.episodes}"
    summary |= {"method": method, "step": evaluated.step, "seed": settings.seed, "data": evaluated.data}
    methods = named({config.workdir: summary} | references)
    folder = epath.Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    page = report.write(
        folder,
        title=f"{evaluated.agent} on {', '.join(task_names)}",
        summary=summary,
        methods=methods,
        traced=[r for r in results if r.frames is not None],
        dims=evaluated.action_names,
        score_name=evaluated.score_name,
    )
    table = _table(summary, methods)
    (folder / "evaluation.txt").write_text(table + "\n")
    # Last: who finds it (make, a later evaluation that names this run as a reference) finds all the rest.
    path = folder / "evaluation.json"
    with storage.writing(path):
        storage.replace_text(path, json.dumps(summary, indent=1) + "\n")
    return summary, table, page


def check(config: Any) -> None:
    """Raises a UserError if the settings make no sense here."""
    settings = config.evaluate
    if config.env.cameras:
        gl.require_backend()
    if min(settings.episodes, settings.num_envs) < 1:
        raise UserError(
            f"config.evaluate has episodes={settings.episodes} and num_envs={settings.num_envs}; give at least 1 of each."
        )


def load(config: Any) -> tuple[dict, checkpoints.Assets, int]:
    """Parameters, assets and step of the checkpoint that `config.evaluate` names.

    Raises:
        UserError: if the run was made with other settings or without data of `config.env.tasks`.

    """
    params, assets, step = checkpoints.load_params(config.workdir, step=config.evaluate.step)
    asked = checkpoints.plain_config(config)
    asked["env"] |= {
        key: assets.config["env"][key] for key in ("tasks", "max_decisions")
    }  # what may be evaluated is not what was trained
    asked["value_range"] = asked["value_range"] or assets.config["value_range"]
    checkpoints.refuse_other_config(assets.config, asked, config.workdir, free=FREE)
    _check_data(config, config.workdir, assets.data)
    return params, assets, step


def _check_data(config: Any, policy: str, data: dict[str, Any]) -> None:
    missing = sorted(set(suites.of(config).suite_tasks(config.env.tasks)) - set(data))
    if missing:
        raise UserError(
            f"{policy} was trained without data of {missing}; evaluate tasks among {sorted(set(data) - {'all'})}."
        )


def _checkpoint(config: Any) -> Evaluated:
    params, assets, step = load(config)
    policy = checkpoint_policy.build(params, assets, config.evaluate.num_envs, config.evaluate.dataset)
    actor = Sessions(policy, functools.partial(text.embed, encoder=policy.spec.text_encoder))
    agent, episodes = assets.config["agent"]["name"], assets.config["data"]["episodes"]
    return Evaluated(
        actor, policy.spec.interface.action.names, agent, policy.spec.score_name, episodes, step, assets.data
    )


def _served(config: Any) -> Evaluated:
    """Raises a UserError if the server's policy is of another robot than the config's simulator has."""
    actor = client.Remote(
        client.Client(flags.FLAGS.policy, access.read_key(flags.FLAGS.api_key_file), ca=flags.FLAGS.ca)
    )
    suite, told = suites.of(config), actor.metadata
    observation = suite.observation_spec(config.env)
    mine = Keys.default(observation).describe(observation), list(suite.action_spec(config.env).names)
    theirs = told["observation"], list(told["action"]["names"])
    if theirs != mine:
        raise UserError(
            f"{flags.FLAGS.policy} serves a policy of {theirs}; config.env gives {mine}: give the config it was trained with."
        )
    if config.evaluate.num_envs > told["sessions"]:
        raise UserError(
            f"config.evaluate.num_envs is {config.evaluate.num_envs}, {flags.FLAGS.policy} serves {told['sessions']} episodes at once; "
            "give no more, or serve with a larger --max_sessions."
        )
    trained = told["training"]
    _check_data(config, flags.FLAGS.policy, trained["data"])
    return Evaluated(
        actor,
        tuple(mine[1]),
        trained["agent"],
        told["score"],
        trained["episodes"],
        trained["step"],
        trained["data"],
    )


def env_config(config: Any) -> Any:
    """`config.env` with the time limit of evaluation."""
    settings = config.env.copy_and_resolve_references()
    settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
    return settings


def reference(workdir: str, task_names: tuple[str, ...], file: str, door: str) -> dict[str, Any]:
    """What `door` wrote about another run, on the same tasks."""
    path = epath.Path(workdir) / file
    if not path.exists():
        raise UserError(
            f"config.evaluate.references names {workdir}, which has no {file}; run `{door}` on it first."
        )
    summary = json.loads(path.read_text())
    if set(summary["tasks"]) != set(task_names):
        raise UserError(f"{path} is about {sorted(summary['tasks'])}, this run about {sorted(task_names)}.")
    return summary


def named(summaries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{workdir: summary} -> {name: summary}: named by agent and data, and by the directory too where two
    would be alike.
    """
    count = collections.Counter(summary["method"] for summary in summaries.values())

    def name(workdir, method):
        return method if count[method] == 1 else f"{method}, {workdir}"

    return {name(workdir, summary["method"]): summary for workdir, summary in summaries.items()}


def _run(config: Any, actor: rollouts.Actor, jobs: list[Job]) -> list[rollouts.Rollout]:
    suite = suites.of(config)
    with tqdm.tqdm(total=len(jobs), desc="evaluate", unit="episode") as bar:
        return rollouts.run(
            actor,
            config.evaluate.num_envs,
            jobs,
            lambda task: suite.Environment(task, env_config(config)),
            lambda env, job: [env.reset(seed=collectors.evaluation_seed(config, job.task, job.index))[0]],
            trace=lambda job: (
                job.index < config.evaluate.videos and job.instruction == suite.INSTRUCTIONS[job.task][0]
            ),
            on_done=lambda rollout: bar.update(),
        )


def _table(summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    def cell(row):
        return f"{row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"

    width = max(20, *map(len, methods)) + 2

    def line(name, data, rows):
        return f"{name:24}{data:>8}" + "".join(f"{row:>{width}}" for row in rows)

    def share(name):
        return f"{summary['data'][name]['success']:.0%}"

    lines = [line("success (95% Wilson)", "data", methods)]
    lines += [
        line(task, share(task), [cell(m["tasks"][task]) for m in methods.values()])
        for task in summary["tasks"]
    ]
    lines.append(line("all", share("all"), [cell(m["overall"]) for m in methods.values()]))
    for row in summary["language"]:
        other = f"{cell(row['other'])} when told {row['other_instruction']!r}"
        lines.append(f"language: {row['task']} succeeds {cell(row['own'])} when told so, {other}")
    return "\n".join(lines)
