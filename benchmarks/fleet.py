"""Many small state-only runs, trained and evaluated one by one on CPUs, or several as one program on an accelerator (training/fleet.py).

`pack` writes all that they need into one file, from collected pools; `run` does the runs of a pack that its output does not hold, so that
it can be stopped at any time. It does without TFDS, RLDS files and the text encoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from qt_jax import agents
from qt_jax.data.order import Group
from qt_jax.data.pool import Pool
from qt_jax.envs import collectors, metaworld
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.evaluation import rollouts
from qt_jax.export import live
from qt_jax.models.q_transformer import Network
from qt_jax.serving.policy import Policy
from qt_jax.serving.sessions import Sessions
from qt_jax.specs import PolicySpec
from qt_jax.training import checkpoints, fleet

CHUNK = 250
"""Steps between metrics."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a job. groups: what it draws from; seed: of its training; pool: number of its pool."""

    name: str
    pool: int
    groups: tuple[Group, ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs that differ only in data and seed. config: plain, as in a checkpoint's assets."""

    name: str
    config: dict[str, Any]
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class Pack:
    """pools: their arrays; statistics: of each pool's states; sentences: {instruction: embedding}."""

    pools: list[Any]
    statistics: list[Any]
    action: Any
    observation: Any
    instruction_dim: int
    dt: float
    sentences: dict[str, np.ndarray]
    jobs: list[Job]


def pack(configs: dict[str, Any], path: Path) -> None:
    """Writes the file of these runs {name: config}; those that differ in data, seed and workdir alone become one job."""
    from qt_jax import text
    from qt_jax.cli import datasets
    from qt_jax.data import loader, mixture
    from qt_jax.training import inputs

    used: dict[tuple, dict[str, Any]] = {}
    jobs: dict[str, Job] = {}
    for run, config in configs.items():
        frozen, recipe, assets = inputs.load(config, datasets.entries(config))
        groups = mixture.groups(recipe.mixture, recipe.cutting)
        key = config.data.path, recipe.cutting, config.discount
        one = used.setdefault(key, {"number": len(used), "recipe": recipe, "episodes": {}, "assets": assets})
        for group in groups:
            one["episodes"].setdefault(group.source, set()).update(map(int, group.episodes))
        plain = checkpoints.plain_config(frozen)
        program = {name: part for name, part in plain.items() if name not in ("data", "seed", "workdir", "collect")}
        program["data"] = {name: plain["data"][name] for name in ("bins", "batch_size", "segment_length", "augment")}
        job = jobs.setdefault(json.dumps(program, sort_keys=True), Job(run, plain, ()))
        member = Member(run, one["number"], groups, config.seed)
        jobs[json.dumps(program, sort_keys=True)] = dataclasses.replace(job, members=(*job.members, member))
    pools, statistics = [], []
    for one in used.values():
        everything = [Group(s, np.asarray(sorted(e)), np.ones(len(e), int), 1.0) for s, e in one["episodes"].items()]
        pools.append(loader.read_pool(one["recipe"], everything))
        statistics.append(one["recipe"].state_statistics["collected"])
    jobs = sorted(jobs.values(), key=lambda job: -len(job.members))
    assets = next(iter(used.values()))["assets"]
    sentences = {tasks.INSTRUCTIONS[task][0]: text.embed(tasks.INSTRUCTIONS[task][0]) for task in assets.data if task != "all"}
    robot = assets.datasets["collected"]
    content = Pack(pools, statistics, robot.action, assets.observation, assets.instruction_dim, robot.dt, sentences, jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(pickle.dumps(content), preset=1))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {len(pools)} pools, {len(jobs)} jobs, {sum(len(j.members) for j in jobs)} runs")


def _load(path: Path) -> Pack:
    return pickle.loads(lzma.decompress(path.read_bytes()))


def _with_bins(pools: list[Pool], factor: int) -> list[Pool]:
    """Pools whose bins are each `factor` of these pools' bins."""
    tables = [pool.table.copy() for pool in pools]
    for table in tables:
        table["tokens"] //= factor
        table["bins"] //= factor
    return [dataclasses.replace(pool, table=table) for pool, table in zip(pools, tables)]


def _network(content: Pack, config: Any) -> tuple[Any, Any]:
    action = dataclasses.replace(content.action, bins=(config.data.bins or content.action.bins[0],) * content.action.dims)
    return Network.create(config.model, action, content.observation, content.instruction_dim), action


def train(content: Pack, job: Job) -> list[tuple[dict[str, Any], dict]]:
    """Trains a job's runs together: of each what is to be known about its training, and its parameters."""
    config = checkpoints.frozen_config(job.config)
    network, action = _network(content, config)
    pools = _with_bins(content.pools, content.action.bins[0] // action.bins[0])
    arrays, offsets = fleet.joined(pools)  # of all, so that runs on any of them are the same compiled program
    members = [
        fleet.Draws(fleet.Run(m.groups, m.seed), pools[m.pool], offsets[m.pool], config.data.batch_size, config.data.shuffle_episodes)
        for m in job.members
    ]
    began, metrics = time.time(), {}
    runs = fleet.Fleet(config, network, arrays, [m.seed for m in job.members])
    for start in range(0, config.train.steps, CHUNK):
        steps = min(CHUNK, config.train.steps - start)
        metrics = jax.device_get(runs.train(np.stack([draws.take(steps) for draws in members], axis=1)))
    facts = {"together": len(job.members), "train_s": time.time() - began, "device": jax.devices()[0].device_kind}
    return [
        (facts | {"run": member.name, "metrics": {name: float(values[i]) for name, values in metrics.items()}}, params)
        for i, (member, params) in enumerate(zip(job.members, runs.params()))
    ]


class _Kept:
    """Environments that stay open from run to run."""

    def __init__(self, settings: Any):
        self._settings, self._open = settings, {}

    def __call__(self, task: str) -> Any:
        class Kept(metaworld.MetaWorldEnv):
            def close(self) -> None:
                kept.append(self)

        kept = self._open.setdefault(task, [])
        return kept.pop() if kept else Kept(task, self._settings)


def evaluate(content: Pack, pool: int, params: dict, environments: _Kept, config: Any) -> dict[str, list[bool]]:
    """Success of one run in each task's episodes, as the `evaluate` door has it."""
    network, action = _network(content, config)
    spec = PolicySpec(action, content.observation, action.slots_in(action), config.model.window, content.instruction_dim, "packed",
                      agents.get(config.agent.name).SCORE_NAME, content.dt)  # fmt: skip
    statistics = content.statistics[pool]
    made = live.of_robot(config, network, spec, statistics, beam=1)
    policy = Policy(spec, statistics, params, made.encode, made.decode, config.evaluate.num_envs)
    actor = Sessions(policy, content.sentences.__getitem__)
    seed = lambda job: collectors.environment_seed(collectors.episode_seed("evaluate", config.evaluate.seed, job.task, job.index))
    begin = lambda env, job: [env.reset(seed=seed(job))[0]]
    result = {}
    for task in metaworld.suite_tasks(config.env.tasks):
        jobs = [rollouts.Job(task, i, tasks.INSTRUCTIONS[task][0]) for i in range(config.evaluate.episodes)]
        done = rollouts.run(actor, config.evaluate.num_envs, jobs, environments, begin)
        result[task] = [bool(r.success) for r in done]
    return result


_OPENED: dict[str, Any] = {}


def _open(path: Path) -> None:
    """In a worker, before JAX has a backend: one thread on a CPU, whose other cores have workers of their own; no rendering."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["MUJOCO_GL"] = os.environ["QT_JAX_GL_PROBED"] = "disable"
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/qt_jax"))
    _OPENED["pack"] = _load(path)


def _do(job: Job) -> list[str]:
    """A JSON line a run."""
    content, config = _OPENED["pack"], checkpoints.frozen_config(job.config)
    if "environments" not in _OPENED:
        settings = ml_collections.ConfigDict(config.env)
        settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
        _OPENED["environments"] = _Kept(settings)
    lines = []
    for member, (facts, params) in zip(job.members, train(content, job)):
        start = time.time()
        success = evaluate(content, member.pool, params, _OPENED["environments"], config)
        lines.append(json.dumps(facts | {"success": success, "evaluate_s": time.time() - start}))
    return lines


def run(path: Path, output: Path, processes: int, together: int) -> None:
    """Trains and evaluates what `output` does not hold yet, so many runs of a job as one program."""
    jobs = _load(path).jobs
    output.parent.mkdir(parents=True, exist_ok=True)
    known = {json.loads(line)["run"] for line in output.read_text().splitlines()} if output.exists() else set()
    units = []
    for job in jobs:
        left = [member for member in job.members if member.name not in known]
        units += [dataclasses.replace(job, members=tuple(left[i : i + together])) for i in range(0, len(left), together)]
    with multiprocessing.get_context("spawn").Pool(processes, _open, (path,)) as pool, open(output, "a") as file:
        for lines in tqdm.tqdm(pool.imap_unordered(_do, units), total=len(units)):
            file.write("".join(line + "\n" for line in lines))
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("output", type=Path, help="JSON lines, one a run; the runs in it are not repeated")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="1 on an accelerator")
    parser.add_argument("--together", type=int, default=1, help="runs that are one program: 1 on CPUs, more on an accelerator")
    given = parser.parse_args()
    run(given.pack, given.output, given.processes, given.together)


if __name__ == "__main__":
    main()
