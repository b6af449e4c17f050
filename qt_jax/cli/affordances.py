"""`affordances`: are a checkpoint's values what a planner can go by? Writes affordances.json and
affordances.html into config.workdir.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import tqdm
from etils import epath

from qt_jax import text
from qt_jax.cli import evaluate
from qt_jax.envs import collectors, suites
from qt_jax.errors import UserError
from qt_jax.evaluation import affordance_page, affordances, rollouts
from qt_jax.export import checkpoint_policy
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.sessions import Sessions


def main(config: Any) -> None:
    settings, simulator = config.evaluate, suites.of(config)
    task_names = simulator.suite_tasks(config.env.tasks)
    wanted, counts = settings.affordances, tuple(settings.affordances.timed)
    if wanted.states < 2 or wanted.decisions < 0 or min(counts, default=0) < 1:
        raise UserError(
            f"config.evaluate.affordances has states={wanted.states}, decisions={wanted.decisions}, timed={counts}; give at least 2 "
            "states, 0 or more decisions, and numbers of instructions of 1 or more."
        )
    evaluate.check(config)
    params, assets, step = evaluate.load(config)
    made = checkpoint_policy.programs(assets, settings.dataset)
    affordances.refuse_without_values(made.spec)
    scenes = affordances.scenes(task_names, simulator.SHARED_SCENES)
    if config.env.state in simulator.STATE_HAS_GOAL and max(map(len, scenes)) > 1:
        raise UserError(
            f"config.env.state is {config.env.state!r}, which holds one task's goal: nothing else can be asked. Use 'proprioception'."
        )
    references = {
        workdir: evaluate.reference(workdir, task_names, "affordances.json", "affordances")
        for workdir in settings.references
    }
    params, embed = jax.device_put(params), functools.partial(text.embed, encoder=made.spec.text_encoder)
    # One episode more than environments: values are asked in episodes beside that of the state.
    sessions = Sessions(
        Policy(made.spec, made.statistics, params, made.encode, made.decode, settings.num_envs + 1), embed
    )
    suite = _suite(config, scenes, sessions)
    states = affordances.states(
        suite, wanted.states, wanted.decisions or config.env.max_decisions, settings.seed
    )
    rows = affordances.pairs(suite, sessions, states)
    sentences = [sentences[0] for sentences in simulator.INSTRUCTIONS.values()]
    trained = assets.config
    summary = {
        "method": f"{trained['agent']['name']}, {trained['data']['episodes']}, relabel_rate {trained['data']['relabel_rate']:g}",
        "step": step,
        "seed": settings.seed,
        "tasks": task_names,
        "scene": affordances.judge(rows, settings.seed, absent=False),
        "all": affordances.judge(rows, settings.seed, absent=True),
        "cost": affordances.cost(made, params, embed, sentences, counts),
        "pairs": rows,
    }
    methods = evaluate.named({config.workdir: summary} | references)
    page = affordance_page.write(epath.Path(config.workdir), summary, methods)
    cost = ", ".join(f"{count}: {ms:.1f}" for count, ms in summary["cost"]["p50_ms"].items())
    print(f"{affordance_page.table(methods)}\nms for so many instructions at once: {cost}\npage: {page}")


def _suite(config: Any, scenes: list[tuple[str, ...]], sessions: Sessions) -> affordances.Suite:
    simulator = suites.of(config)

    def make_env(task):
        return simulator.Environment(task, evaluate.env_config(config))

    def run(jobs, begin):
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
