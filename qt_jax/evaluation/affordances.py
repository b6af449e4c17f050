"""Values as affordances: what a policy thinks of each instruction in a state, against what comes of it from
that very state.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from qt_jax.errors import UserError
from qt_jax.evaluation import detection
from qt_jax.evaluation.rollouts import Job, Rollout
from qt_jax.export import checkpoint_policy
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.sessions import Request, Sessions
from qt_jax.specs import PolicySpec

TIMINGS = 20


@dataclasses.dataclass(frozen=True)
class State:
    """A simulator state, as what leads to it: `actions` [T, D] from the start of episode `index` of `task`."""

    task: str
    index: int
    actions: np.ndarray

    @property
    def split(self) -> str:
        return ("validation", "test")[self.index % 2]


@dataclasses.dataclass
class Suite:
    """A suite of tasks whose episodes can be begun in any state (`replay`, as SuiteEnv has it).

    scenes: tasks that share scene and start. seed: environment seed of episode `index` of a task. run:
    rollouts.run with actor and environments bound: (jobs, begin) -> rollouts.
    """

    scenes: Sequence[Sequence[str]]
    instructions: dict[str, str]
    make_env: Callable[[str], Any]
    seed: Callable[[str, int], int]
    run: Callable[[list[Job], Callable[[Any, Job], Any]], list[Rollout]]


def refuse_without_values(spec: PolicySpec) -> None:
    """Raises a UserError unless the policy's scores are values."""
    if spec.score_name != "Q":
        raise UserError(
            f"Affordances are values; this policy's scores are of kind {spec.score_name!r}. Take a run of q_transformer."
        )


def scenes(tasks: Sequence[str], shared: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """The tasks as scenes: those of a `shared` scene together, where all of it are there."""
    together = [tuple(scene) for scene in shared if set(scene) <= set(tasks)]
    return together + [(task,) for task in tasks if task not in itertools.chain(*together)]


def states(suite: Suite, count: int, decisions: int, seed: int) -> list[State]:
    """`count` states a task: starts of episodes and, by turns of two, states after 1 to `decisions` decisions
    of the policy told the task.

    A success on the way ends it: that state is one where the task is done already.
    """
    rng = np.random.default_rng(seed)
    tasks = list(itertools.chain(*suite.scenes))
    lengths = {
        (task, i): int(rng.integers(1, decisions, endpoint=True)) if i // 2 % 2 else 0
        for task in tasks
        for i in range(count)
    }
    jobs = [Job(task, i, suite.instructions[task]) for (task, i), length in lengths.items() if length]

    def begin(env, job):
        observation, _ = env.reset(
            seed=suite.seed(job.task, job.index), options={"max_decisions": lengths[job.task, job.index]}
        )
        return [observation]

    taken = {(rollout.job.task, rollout.job.index): rollout.actions for rollout in suite.run(jobs, begin)}
    return [State(task, i, taken.get((task, i), np.zeros((0, 0)))) for task, i in lengths]


def pairs(suite: Suite, sessions: Sessions, found: list[State]) -> list[dict[str, Any]]:
    """A row for each state and instruction of any task: value, and the outcome where the task is of the
    state's scene.

    "success" is of a rollout told so from the state, with a new time limit; None where the instruction's
    object is not in the scene, so that nothing can come of it. "done": the task is achieved in the state
    already.
    """
    scene_of = {task: scene for scene in suite.scenes for task in scene}
    asked = list(scene_of)
    window, rows, by_job = sessions.policy.spec.window, [], {}

    def restore(env, state):
        return env.replay(suite.seed(state.task, state.index), state.actions, window)

    for task, group in itertools.groupby(found, key=lambda state: state.task):
        env = suite.make_env(task)
        for state in group:
            values = value(sessions, restore(env, state)[0], [suite.instructions[other] for other in asked])
            for other, number in zip(asked, values):
                row = {
                    "task": task,
                    "index": state.index,
                    "decisions": len(state.actions),
                    "split": state.split,
                }
                rows.append(row | {"asked": other, "value": float(number), "success": None, "done": False})
                if other in scene_of[task]:
                    by_job[Job(other, len(by_job), suite.instructions[other])] = state, rows[-1]
        env.close()

    def begin(env, job):
        state, row = by_job[job]
        observations, row["done"] = restore(env, state)
        return observations

    for rollout in suite.run(sorted(by_job, key=lambda job: job.task), begin):
        by_job[rollout.job][1]["success"] = rollout.success
    return rows


def value(
    sessions: Sessions, observations: Sequence[dict[str, Any]], instructions: Sequence[str]
) -> np.ndarray:
    """Values [K] of instructions in the last of `observations`, those before it the window's past."""
    for number, seen in enumerate(observations):
        (decision,) = sessions.act(
            [Request("affordances", seen["images"], seen["state"], instructions[0], reset=number == 0)]
        )
        if isinstance(decision, UserError):
            raise decision
    values = sessions.values("affordances", instructions)
    sessions.close("affordances")
    return values


def chosen(rows: list[dict[str, Any]], split: str, absent: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values float [P], outcomes bool [P] and states int [P] of the pairs of a split.

    Those whose task is done already do not count.

    Args:
        absent: count instructions whose object is not in the scene too, as failures.

    """
    kept = [
        row
        for row in rows
        if row["split"] == split and not row["done"] and (absent or row["success"] is not None)
    ]
    states = np.unique([f"{row['task']} {row['index']}" for row in kept], return_inverse=True)[1]
    return (
        np.asarray([row["value"] for row in kept], float),
        np.asarray([bool(row["success"]) for row in kept], bool),
        states,
    )


def judge(rows: list[dict[str, Any]], seed: int, absent: bool) -> dict[str, Any]:
    """Threshold of the best F1 in the validation states.

    Precision, recall and F1 of the test states at it, with 95% bootstrap intervals.

    "always" is the F1 of saying yes to everything. Where no validation pair succeeds there is no threshold,
    nor what follows from it.
    """
    values, outcomes, _ = chosen(rows, "validation", absent)
    found: dict[str, Any] = {
        "threshold": detection.best_threshold(values, outcomes),
        "validation": {"pairs": len(outcomes), "successes": int(outcomes.sum())},
    }
    values, outcomes, groups = chosen(rows, "test", absent)
    found |= {
        "test": {"pairs": len(outcomes), "successes": int(outcomes.sum())},
        "average_precision": detection.average_precision(values, outcomes),
        "always": detection.scores(np.ones_like(outcomes), outcomes)["f1"],
    }
    if found["threshold"] is not None:
        said = values >= found["threshold"]
        found["test"] |= detection.scores(said, outcomes) | {
            "intervals": detection.intervals(said, outcomes, groups, seed)
        }
    return found


def cost(
    programs: checkpoint_policy.Programs,
    params: Any,
    embed: Callable[[str], np.ndarray],
    sentences: Sequence[str],
    counts: Sequence[int],
) -> dict:
    """Median milliseconds of `Sessions.values` for each number of instructions, its window full, sentences
    embedded and all compiled.
    """
    made, most = programs.spec.interface.observation, max(counts)
    policy = Policy(
        programs.spec,
        programs.statistics,
        params,
        programs.encode,
        programs.decode,
        most + 1,
        buckets=(1, *counts),
    )
    sessions, rng = Sessions(policy, embed), np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (*made.image_size, 3), np.uint8) for name in made.cameras}
    told = list(itertools.islice(itertools.cycle(sentences), most))
    for step in range(programs.spec.window):
        sessions.act(
            [Request("cost", images, np.zeros(made.state_dim, np.float32), told[0], reset=step == 0)]
        )
    p50 = {}
    for count in counts:
        seconds = []
        for _ in range(TIMINGS + 2):
            start = time.perf_counter()
            sessions.values("cost", told[:count])
            seconds.append(time.perf_counter() - start)
        p50[str(count)] = 1e3 * float(np.median(seconds[2:]))
    return {"device": jax.devices()[0].device_kind, "window": programs.spec.window, "p50_ms": p50}
