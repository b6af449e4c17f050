"""Evaluates a run's values as affordances: how well they predict which instructions will succeed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import tqdm
from etils import epath

from qt_jax import text
from qt_jax.envs import collectors, suites
from qt_jax.errors import UserError
from qt_jax.evaluation import affordance_page, affordances, rollouts, runs
from qt_jax.evaluation.rollouts import Job, Rollout
from qt_jax.export import checkpoint_policy
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import Decoding


def evaluate(config: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Evaluates the checkpoint that `config.evaluate` names, of the run in `config.workdir`.

    Writes affordances.json and affordances.html there.

    Returns:
        What affordances.json has; and {name: the same} of this run and of `config.evaluate.references`.

    Raises:
        UserError: if there is no such run, it was trained with other settings, or its scores are no values.

    """
    settings, simulator = config.evaluate, suites.of(config)
    task_names = simulator.suite_tasks(config.env.tasks)
    wanted, counts = settings.affordances, tuple(settings.affordances.timed)
    if wanted.states < 2 or wanted.decisions < 0 or min(counts, default=0) < 1:
        raise UserError(
            f"config.evaluate.affordances has states={wanted.states}, decisions={wanted.decisions}, "
            f"timed={counts}; give at least 2 states, 0 or more decisions, and numbers of instructions of 1 "
            "or more."
        )
    runs.check(config)

    params, assets, step = runs.load(config)
    programs = checkpoint_policy.programs(assets, settings.dataset, Decoding.read(settings.decode))
    affordances.refuse_without_values(programs.spec)
    scenes = affordances.scenes(task_names, simulator.SHARED_SCENES)
    if config.env.state in simulator.STATE_HAS_GOAL and max(map(len, scenes)) > 1:
        raise UserError(
            f"config.env.state is {config.env.state!r}, which holds one task's goal: nothing else can be "
            "asked. Use 'proprioception'."
        )
    references = runs.references(config, task_names, "affordances.json", "affordances")

    params = jax.device_put(params)
    embed = functools.partial(text.embed, encoder=programs.spec.text_encoder)
    # One episode more than environments: while they are valued, instructions take the place of one.
    policy = Policy(
        programs.spec, programs.statistics, params, programs.encode, programs.decode, settings.num_envs + 1
    )
    sessions = Sessions(policy, embed)
    suite = _suite(config, scenes, sessions)
    most_decisions = wanted.decisions or config.env.max_decisions
    states = affordances.states(suite, wanted.states, most_decisions, settings.seed)
    rows = affordances.pairs(suite, sessions, states)

    agent, data = assets.config["agent"]["name"], assets.config["data"]
    sentences = [sentences[0] for sentences in simulator.INSTRUCTIONS.values()]
    summary = {
        "method": f"{agent}, {data['episodes']}, relabel_rate {data['relabel_rate']:g}",
        "step": step,
        "seed": settings.seed,
        "tasks": task_names,
        "scene": affordances.judge(rows, settings.seed, absent=False),
        "all": affordances.judge(rows, settings.seed, absent=True),
        "cost": affordances.cost(programs, params, embed, sentences, counts),
        "pairs": rows,
    }
    methods = runs.by_method({config.workdir: summary} | references)
    affordance_page.write(epath.Path(config.workdir), summary, methods)
    return summary, methods


def _suite(config: Any, scenes: Sequence[Sequence[str]], sessions: Sessions) -> affordances.Suite:
    simulator = suites.of(config)
    env_config = runs.env_config(config)

    def make_env(task: str) -> Any:
        return simulator.Environment(task, env_config)

    def run(jobs: list[Job], begin: Callable[[Any, Job], Any]) -> list[Rollout]:
        with tqdm.tqdm(total=len(jobs), desc="affordances", unit="episode") as bar:
            return rollouts.run(
                sessions, config.evaluate.num_envs, jobs, make_env, begin, on_done=lambda _: bar.update()
            )

    return affordances.Suite(
        scenes=scenes,
        instructions={task: simulator.INSTRUCTIONS[task][0] for scene in scenes for task in scene},
        make_env=make_env,
        seed=functools.partial(collectors.evaluation_seed, config),
        run=run,
    )
