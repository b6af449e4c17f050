"""`python -m benchmarks.fleet PACK OUTPUT [--together N]`: trains and evaluates runs of a pack.

It takes those that OUTPUT does not hold yet, and adds a JSON line for each as it ends: stop it at any time.
Each CPU core has runs of its own. With `--together=N` the machine's accelerator trains up to N runs of one
program at once (benchmarks/stacked_runs.py) and the CPU cores evaluate them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from benchmarks import packs, results, stacked_runs
from benchmarks.packs import Job, Member, Pack
from qt_jax import agents, children
from qt_jax.envs import collectors, suites
from qt_jax.evaluation import rollouts
from qt_jax.export import checkpoint_policy
from qt_jax.models.ensemble import Ensemble
from qt_jax.policy.jax_policy import Policy
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import Decoding, PolicySpec
from qt_jax.training.assets import frozen_config

CHUNK = 250
"""Steps between metrics."""

CURVE_EPISODES = 2
"""Episodes of each task at a point of a learning curve."""

PROGRAMS = 4
"""Jobs that an accelerator has at once: while one trains, others compile."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is trained as one program: the number of a job of the pack, and of some of its members."""

    job: int
    members: tuple[int, ...]

    def of(self, content: Pack) -> tuple[Job, list[Member]]:
        job = content.jobs[self.job]
        return job, [job.members[number] for number in self.members]


def ensemble_of(content: Pack, job: Job) -> Ensemble:
    return agents.make_ensemble(frozen_config(job.config), content.data[job.data[0]].interface)


def rows(content: Pack, job: Job, member: Member) -> np.ndarray:
    """Returns the rows that a run draws from its pool: int32 [steps, B]."""
    config, pool = frozen_config(job.config), content.data[job.data[member.data]].pool
    settings = {
        "steps": config.train.steps,
        "batch_size": config.data.batch_size,
        "shuffle_episodes": config.data.shuffle_episodes,
    }
    return stacked_runs.rows(member.groups, pool, seed=int(member.own["seed"]), **settings)


def train(
    content: Pack, unit: Unit, drawn: Sequence[np.ndarray]
) -> tuple[list[dict[str, Any]], list[dict[int, dict]]]:
    """Trains the runs of a unit on their `rows`.

    Returns:
        For each run the facts of its training, and its parameters {steps: params}: at the points of its
        learning curve, and last at its end.

    """
    job, members = unit.of(content)
    # The pools of all members, whichever of them run, so that it is one program.
    arrays, offsets = stacked_runs.joined([content.data[number].pool for number in job.data])
    began, metrics = time.time(), {}
    runs = stacked_runs.Fleet(
        frozen_config(job.config),
        ensemble_of(content, job),
        arrays,
        [member.own for member in members],
    )
    drawn = np.stack([own + offsets[member.data] for own, member in zip(drawn, members)], axis=1)
    params: list[dict[int, dict]] = [{} for _ in members]
    ends = [{*member.curve, len(drawn)} for member in members]
    for start, stop in itertools.pairwise(sorted({*range(0, len(drawn), CHUNK), *itertools.chain(*ends)})):
        metrics = jax.device_get(runs.train(drawn[start:stop]))
        if any(stop in own for own in ends):
            for own, reached, now in zip(ends, params, runs.params()):
                reached |= {stop: now} if stop in own else {}
    facts = {
        "together": len(members),
        "steps": len(drawn),
        "train_s": time.time() - began,
        "device": jax.devices()[0].device_kind,
    }
    own = [
        {"run": m.name, "metrics": {name: float(values[i]) for name, values in metrics.items()}}
        for i, m in enumerate(members)
    ]
    return [row | facts for row in own], params


class Environments:
    """The environments of a config, with evaluation's time limit.

    They stay open from run to run, except where the suite itself keeps its one scene.
    """

    def __init__(self, config: Any):
        self._settings, self._open, self._suite = ml_collections.ConfigDict(config.env), {}, suites.of(config)
        self._settings.max_decisions = config.evaluate.max_decisions or config.env.max_decisions

    def __call__(self, task: str) -> Any:
        class Kept(self._suite.Environment):
            def close(self) -> None:
                kept.append(self)

        if self._suite.ONE_SCENE:
            return self._suite.Environment(task, self._settings)
        kept = self._open.setdefault(task, [])
        return kept.pop() if kept else Kept(task, self._settings)


def episodes(
    content: Pack,
    job: Job,
    member: Member,
    params: dict,
    environments: Environments,
    count: int | None = None,
    decode: str = "",
) -> dict[str, list[rollouts.Rollout]]:
    """Rolls one run out in each task's episodes, as the command `evaluate` does.

    `count`: only the first; `decode`: in the place of `config.evaluate.decode`.
    """
    config, data = job.config_of(member), content.data[job.data[member.data]]
    ensemble = ensemble_of(content, job)
    spec = PolicySpec(
        interface=data.interface,
        network_dims=tuple(range(data.interface.decision.dims)),
        window=config.model.window,
        text_encoder="packed",
        score_name=agents.get(config.agent.name).SCORE_NAME,
        dt=content.dt,
        target_return=1.0,  # rewards of a pack are 0 until success
        decoding=Decoding.read(decode or config.evaluate.decode),
        timesteps=ensemble.network.timesteps,
    )
    made = checkpoint_policy.of_robot(config, ensemble, spec, data.statistics)
    policy = Policy(spec, data.statistics, params, made.encode, made.decode, config.evaluate.num_envs)
    actor = Sessions(policy, content.sentences.__getitem__)
    suite = suites.of(config)

    def begin(env, job):
        return [env.reset(seed=collectors.evaluation_seed(config, job.task, job.index))[0]]

    result = {}
    for task in suite.suite_tasks(config.env.tasks):
        jobs = [
            rollouts.Job(task, i, suite.INSTRUCTIONS[task][0])
            for i in range(count or config.evaluate.episodes)
        ]
        result[task] = rollouts.run(actor, config.evaluate.num_envs, jobs, environments, begin)
    return result


def evaluate(*of_run: Any, **more: Any) -> dict[str, list[bool]]:
    """Returns the success of `episodes`."""
    done = episodes(*of_run, **more)
    return {task: [bool(rollout.success) for rollout in of_task] for task, of_task in done.items()}


_OPENED: dict[str, Any] = {}


def open_pack(path: Path) -> None:
    """Opens a pack in a worker, before JAX has a backend.

    The worker computes in one thread, since each core has a worker, and renders nothing.
    """
    children.end_with_parent()
    os.environ["NPROC"] = "1"  # threads of XLA's pool; without it there is one for each core
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["MUJOCO_GL"] = os.environ["QT_JAX_GL_PROBED"] = "disable"
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/qt_jax"))
    _OPENED["pack"] = packs.read(path)


def opened() -> Pack:
    """Returns the worker's pack."""
    return _OPENED["pack"]


def trained(unit: Unit) -> tuple[Pack, Job, Member, dict]:
    """Trains, in a worker, the one run of the unit; returns it with its parameters at the end."""
    content = opened()
    job, (member,) = unit.of(content)
    _, (params,) = train(content, unit, [_rows(unit, 0)])
    return content, job, member, params[max(params)]


def _rows(unit: Unit, place: int) -> np.ndarray:
    job, members = unit.of(opened())
    return rows(opened(), job, members[place])


def _evaluate(unit: Unit, place: int, facts: dict[str, Any], params: dict[int, dict]) -> dict[str, Any]:
    """Makes the row of one run of the unit, with `params` as from `train`."""
    content, start = opened(), time.time()
    job, members = unit.of(content)
    config = frozen_config(job.config)
    environments = _OPENED.setdefault(repr((config.env, config.evaluate.max_decisions)), Environments(config))
    *points, (_, last) = params.items()
    run = content, job, members[place]
    success = evaluate(*run, last, environments)
    curve = {step: evaluate(*run, then, environments, count=CURVE_EPISODES) for step, then in points}
    facts |= {"curve": curve} if curve else {}
    decodes = members[place].decodes
    decoded = {decode: evaluate(*run, last, environments, decode=decode) for decode in decodes}
    facts |= {"decoded": decoded} if decoded else {}
    return facts | {"success": success, "evaluate_s": time.time() - start} | content.facts


def _do(unit: Unit) -> list[dict[str, Any]]:
    facts, params = train(opened(), unit, [_rows(unit, place) for place in range(len(unit.members))])
    return [_evaluate(unit, place, *each) for place, each in enumerate(zip(facts, params))]


def _on_accelerator(pool: Any, content: Pack, units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    drawn = [[pool.apply_async(_rows, (unit, place)) for place in range(len(unit.members))] for unit in units]

    def train_one(number: int) -> list[Any]:
        facts, params = train(content, units[number], [own.get() for own in drawn[number]])
        return [
            pool.apply_async(_evaluate, (units[number], place, *each))
            for place, each in enumerate(zip(facts, params))
        ]

    with concurrent.futures.ThreadPoolExecutor(PROGRAMS) as threads:
        started = [threads.submit(train_one, number) for number in range(len(units))]
        for done in concurrent.futures.as_completed(started):
            for row in done.result():
                yield row.get()


def run(
    path: Path,
    output: Path,
    together: int = 1,
    processes: int | None = None,
    do: Callable[[Unit], list[dict[str, Any]]] = _do,
    beside: Collection[str] = (),
) -> None:
    """Trains and evaluates the runs of a pack that `output` does not hold yet.

    Args:
        path: of the pack.
        output: file of the results, a JSON line a run.
        together: runs of one program at once, on an accelerator; 1: on the CPU.
        processes: on the CPU (default: as many as there are cores).
        do: makes, in a process of the CPU, the rows of a unit.
        beside: members of the pack that are not done; `do` reads them for others.

    """
    output.parent.mkdir(parents=True, exist_ok=True)
    known = {row["run"] for row in results.rows(output)} | {*beside}
    content, units = packs.read(path), []
    for number, job in enumerate(content.jobs):
        left = [place for place, member in enumerate(job.members) if member.name not in known]
        units += [Unit(number, tuple(left[i : i + together])) for i in range(0, len(left), together)]
    units.sort(key=lambda unit: unit.members)  # seed after seed, where a job's members are seeds
    count = sum(len(unit.members) for unit in units)
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count(), open_pack, (path,)) as pool:
        if together == 1:
            done = (row for rows in pool.imap_unordered(do, units) for row in rows)
        else:
            done = _on_accelerator(pool, content, units)
        for row in tqdm.tqdm(done, total=count):
            results.add(output, row)


def positive(text: str) -> int:
    """Parses a whole number from 1 of a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--together", type=positive, default=1, metavar="N")
    given = parser.parse_args()
    if not given.pack.exists():
        parser.error(
            f"{given.pack} does not exist; `python -m benchmarks.claim PART --pack` writes .fleet/PART.pack"
        )
    run(given.pack, given.output, given.together)


if __name__ == "__main__":
    main()
