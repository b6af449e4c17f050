"""Values as affordances: a policy's value of an instruction in a state, and what comes of trying it there."""

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
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import PolicySpec

TIMINGS = 20
"""Of each number of instructions, whose median is taken."""


@dataclasses.dataclass(frozen=True)
class State:
    """A simulator state, stored as what leads to it: actions from the start of an episode.

    Attributes:
        task: of the episode.
        index: of the episode, which fixes its start.
        actions: float [T, D], that the policy took.

    """

    task: str
    index: int
    actions: np.ndarray

    @property
    def split(self) -> str:
        """Returns "validation" (where thresholds are chosen) or "test"."""
        return ("validation", "test")[self.index % 2]


@dataclasses.dataclass
class Suite:
    """Tasks whose episodes can begin in any state, by `SuiteEnv.replay`.

    Attributes:
        scenes: groups of tasks that share scene and start.
        instructions: {task: its instruction}.
        make_env: task -> environment.
        seed: (task, index of an episode) -> seed of the environment.
        run: `rollouts.run` with actor and environments bound: (jobs, begin) -> rollouts.

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
            f"Affordances are values; this policy's scores are of kind {spec.score_name!r}. Take a run of "
            "q_transformer."
        )


def scenes(tasks: Sequence[str], shared: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Groups the tasks by scene.

    Args:
        tasks: to be grouped.
        shared: groups that have one scene; one counts where all its tasks are among `tasks`.

    """
    together = [tuple(scene) for scene in shared if set(scene) <= set(tasks)]
    return together + [(task,) for task in tasks if task not in itertools.chain(*together)]


def states(suite: Suite, count: int, decisions: int, seed: int) -> list[State]:
    """Finds states of each task: starts of episodes, and states within them that the policy reached.

    A policy that succeeds on the way stops there: in that state the task is done already.

    Args:
        suite: of the tasks.
        count: how many states a task; two starts and two states within an episode by turns.
        decisions: most decisions before a state within an episode; their number is drawn from 1 on.
        seed: of these draws.

    """
    rng = np.random.default_rng(seed)
    tasks = list(itertools.chain(*suite.scenes))
    lengths = {
        (task, i): int(rng.integers(1, decisions, endpoint=True)) if i // 2 % 2 else 0
        for task in tasks
        for i in range(count)
    }
    jobs = [Job(task, i, suite.instructions[task]) for (task, i), length in lengths.items() if length]

    def begin(env: Any, job: Job) -> list[Any]:
        limit = {"max_decisions": lengths[job.task, job.index]}
        observation, _ = env.reset(seed=suite.seed(job.task, job.index), options=limit)
        return [observation]

    taken = {(rollout.job.task, rollout.job.index): rollout.actions for rollout in suite.run(jobs, begin)}
    return [State(task, i, taken.get((task, i), np.zeros((0, 0)))) for task, i in lengths]


def pairs(suite: Suite, sessions: Sessions, found: list[State]) -> list[dict[str, Any]]:
    """Values every instruction in every state, and tries those whose task is of the state's scene.

    Returns:
        A row for each state and instruction. "value": of the instruction in the state. "success": of a
        rollout from the state with that instruction and a new time limit; None where the instruction's object
        is not in the scene. "done": whether the task is achieved in the state already.

    """
    scene_of = {task: scene for scene in suite.scenes for task in scene}
    asked = list(scene_of)
    window, apart = sessions.policy.spec.window, sessions.policy.spec.interface.execute
    rows: list[dict[str, Any]] = []
    by_job: dict[Job, tuple[State, dict[str, Any]]] = {}

    def restore(env: Any, state: State) -> tuple[Sequence[Any], bool]:
        keep = (window - 1) * apart + 1
        observations, done = env.replay(suite.seed(state.task, state.index), state.actions, keep)
        return observations[::-apart][::-1], done

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

    def begin(env: Any, job: Job) -> Sequence[Any]:
        state, row = by_job[job]
        observations, row["done"] = restore(env, state)
        return observations

    for rollout in suite.run(sorted(by_job, key=lambda job: job.task), begin):
        by_job[rollout.job][1]["success"] = rollout.success
    return rows


def value(
    sessions: Sessions, observations: Sequence[dict[str, Any]], instructions: Sequence[str]
) -> np.ndarray:
    """Values instructions in the last of `observations`, after those before it: float32 [K]."""
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
    """Selects the pairs of a split whose task is not done already.

    Args:
        rows: of `pairs`.
        split: "validation" or "test".
        absent: whether instructions whose object is not in the scene count too, as failures.

    Returns:
        Values float [P], outcomes bool [P], and int [P], which are equal for pairs of one state.

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
    """Chooses the threshold of the best F1 in the validation states, and scores it in the test states.

    Args:
        rows: of `pairs`.
        seed: of the bootstrap.
        absent: as `chosen` has it.

    Returns:
        "threshold": None where no validation pair succeeds. "validation" and "test": counts; of "test" also
        precision, recall and F1 at the threshold with 95% bootstrap intervals, if there is one.
        "average_precision". "always": the F1 of saying yes to everything.

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
        predicted = values >= found["threshold"]
        found["test"] |= detection.scores(predicted, outcomes)
        found["test"]["intervals"] = detection.intervals(predicted, outcomes, groups, seed)
    return found


def cost(
    programs: checkpoint_policy.Programs,
    params: Any,
    embed: Callable[[str], np.ndarray],
    sentences: Sequence[str],
    counts: Sequence[int],
) -> dict[str, Any]:
    """Times `Sessions.values` for each number of instructions, its window full, all embedded and compiled.

    Returns:
        The median milliseconds of each ("p50_ms"), on which "device" and with which "window".

    """
    spec, most = programs.spec, max(counts)
    policy = Policy(
        spec, programs.statistics, params, programs.encode, programs.decode, most + 1, buckets=(1, *counts)
    )
    sessions, rng = Sessions(policy, embed), np.random.default_rng(0)

    seen = spec.interface.observation
    images = {name: rng.integers(0, 256, (*seen.image_size, 3), np.uint8) for name in seen.cameras}
    state = np.zeros(seen.state_dim, np.float32)
    instructions = list(itertools.islice(itertools.cycle(sentences), most))
    for step in range(spec.window):
        sessions.act([Request("cost", images, state, instructions[0], reset=step == 0)])

    p50 = {}
    for count in counts:
        seconds = []
        for _ in range(TIMINGS + 2):
            start = time.perf_counter()
            sessions.values("cost", instructions[:count])
            seconds.append(time.perf_counter() - start)
        p50[str(count)] = 1e3 * float(np.median(seconds[2:]))
    return {"device": jax.devices()[0].device_kind, "window": spec.window, "p50_ms": p50}
