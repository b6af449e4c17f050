"""Many small state-only runs on one accelerator, trained (qt_jax/training/fleet.py) and evaluated there, from one file.

`pack` writes that file here from collected pools; `run` needs nothing but it, the simulator and the learner's packages: no TFDS, no text
encoder, no network. It trains job after job in `--trainers` processes, evaluates the runs in `--evaluators` others, and writes a JSON line a
run. What is not done by `--seconds` is left out, and a later `run` with the same output does it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data.order import Group

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


def pack(configs: dict[str, dict[str, Any]], path: Path) -> None:
    """Writes the file of jobs {name: {run: config}}; the configs of a job differ in data, seed and workdir alone."""
    from qt_jax import text
    from qt_jax.cli import datasets
    from qt_jax.data import loader, mixture
    from qt_jax.envs import metaworld_tasks as tasks
    from qt_jax.training import checkpoints, inputs

    used: dict[tuple, dict[str, Any]] = {}
    jobs = []
    for name, runs in configs.items():
        members = []
        for run, config in runs.items():
            frozen, recipe, assets = inputs.load(config, datasets.entries(config))
            groups = mixture.groups(recipe.mixture, recipe.cutting)
            key = config.data.path, recipe.cutting, config.discount
            one = used.setdefault(key, {"number": len(used), "recipe": recipe, "episodes": {}, "assets": assets})
            for group in groups:
                one["episodes"].setdefault(group.source, set()).update(map(int, group.episodes))
            members.append(Member(run, one["number"], groups, config.seed))
        jobs.append(Job(name, checkpoints.plain_config(frozen), tuple(members)))
    pools, statistics = [], []
    for one in used.values():
        everything = [Group(s, np.asarray(sorted(e)), np.ones(len(e), int), 1.0) for s, e in one["episodes"].items()]
        pools.append(loader.read_pool(one["recipe"], everything))
        statistics.append(one["recipe"].state_statistics["collected"])
    assets = next(iter(used.values()))["assets"]
    sentences = {tasks.INSTRUCTIONS[task][0]: text.embed(tasks.INSTRUCTIONS[task][0]) for task in assets.data if task != "all"}
    robot = assets.datasets["collected"]
    content = Pack(pools, statistics, robot.action, assets.observation, assets.instruction_dim, robot.dt, sentences, jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(pickle.dumps(content), preset=1))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {len(pools)} pools, {len(jobs)} jobs, {sum(len(j.members) for j in jobs)} runs")


def _load(path: Path) -> Pack:
    return pickle.loads(lzma.decompress(path.read_bytes()))


def _with_bins(content: Pack, bins: int) -> tuple[list[Any], Any]:
    """Pools and action at `bins` bins a dim, of which each is several of the pack's."""
    factor = content.action.bins[0] // bins
    pools = []
    for pool in content.pools:
        table = pool.table.copy()
        table["tokens"] //= factor
        table["bins"] //= factor
        pools.append(dataclasses.replace(pool, table=table))
    return pools, dataclasses.replace(content.action, bins=tuple(b // factor for b in content.action.bins))


def _network(content: Pack, config: Any) -> tuple[Any, Any]:
    from qt_jax.models.q_transformer import Network

    action = dataclasses.replace(content.action, bins=(config.data.bins or content.action.bins[0],) * content.action.dims)
    return Network.create(config.model, action, content.observation, content.instruction_dim), action


def train_job(content: Pack, job: Job, folder: Path, deadline: float) -> None:
    """Trains a job's runs together and leaves each one's parameters in `folder`."""
    import jax

    from qt_jax.training import checkpoints, fleet

    config = checkpoints.frozen_config(job.config)
    network, action = _network(content, config)
    pools, _ = _with_bins(content, action.bins[0])
    numbers = sorted({member.pool for member in job.members})
    arrays, offsets = fleet.joined([pools[number] for number in numbers])
    place = dict(zip(numbers, offsets))
    started = time.time()
    rows = np.stack([
        fleet.draws(fleet.Run(m.groups, m.pool, m.seed), pools[m.pool], place[m.pool], config.data.batch_size,
                    config.data.shuffle_episodes, config.train.steps)
        for m in job.members
    ], axis=1)  # fmt: skip
    drawn = time.time()
    runs = fleet.Fleet(config, network, arrays, [m.seed for m in job.members])
    curves, compiled = [], None
    for start in range(0, config.train.steps, CHUNK):
        metrics = jax.device_get(runs.train(rows[start : start + CHUNK]))
        compiled = compiled or time.time()
        curves.append({name: values.tolist() for name, values in metrics.items()})
        if time.time() > deadline:
            print(f"{job.name}: stopped at step {start + CHUNK} by the deadline", flush=True)
            return
    end = time.time()
    per_step = (end - compiled) / max(1, config.train.steps - CHUNK)
    for i, (member, params) in enumerate(zip(job.members, runs.params())):
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        last = {name: values[i] for name, values in curves[-1].items()}
        facts = {
            "job": job.name, "run": member.name, "pool": member.pool, "seed": member.seed, "config": job.config, "metrics": last,
            "curve": {name: [c[name][i] for c in curves] for name in ("loss",)}, "train_s": end - drawn, "together": len(job.members),
            "step_ms": 1e3 * per_step, "device": jax.devices()[0].device_kind,
        }  # fmt: skip
        temporary = folder / f"{job.name}.{i}.tmp"
        with open(temporary, "wb") as file:
            pickle.dump((facts, params), file)
        temporary.rename(folder / f"{job.name}.{i}.todo")
    print(f"{job.name}: {len(job.members)} runs, draws {drawn - started:.1f} s, first chunk {compiled - drawn:.1f} s, "
          f"{1e3 * per_step:.2f} ms a step, all {end - started:.1f} s", flush=True)  # fmt: skip


def _trainer(path: Path, folder: Path, deadline: float, index: Any) -> None:
    content = _load(path)
    while True:
        with index.get_lock():
            number, index.value = index.value, index.value + 1
        if number >= len(content.jobs) or time.time() > deadline:
            return
        job = content.jobs[number]
        try:
            train_job(content, job, folder, deadline)
        except Exception as error:
            print(f"{job.name}: {type(error).__name__}: {error}", flush=True)


class _Kept:
    """Environments that stay open from run to run."""

    def __init__(self, settings: Any):
        self._settings, self._open = settings, {}

    def __call__(self, task: str) -> Any:
        from qt_jax.envs import metaworld

        class Kept(metaworld.MetaWorldEnv):
            def close(self) -> None:
                kept.append(self)

        kept = self._open.setdefault(task, [])
        return kept.pop() if kept else Kept(task, self._settings)


def evaluate(content: Pack, facts: dict[str, Any], params: dict, environments: _Kept, config: Any) -> dict[str, Any]:
    """Success of one run in each task, as the `evaluate` door has it."""
    from qt_jax import agents
    from qt_jax.envs import collectors, metaworld
    from qt_jax.envs import metaworld_tasks as tasks
    from qt_jax.evaluation import rollouts
    from qt_jax.export import live
    from qt_jax.serving.policy import Policy
    from qt_jax.serving.sessions import Sessions
    from qt_jax.specs import PolicySpec

    network, action = _network(content, config)
    spec = PolicySpec(action, content.observation, action.slots_in(action), config.model.window, content.instruction_dim, "packed",
                      agents.get(config.agent.name).SCORE_NAME, content.dt)  # fmt: skip
    statistics = content.statistics[facts["pool"]]
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


def _evaluator(path: Path, folder: Path, deadline: float, done: Any) -> None:
    import ml_collections
    from qt_jax.training import checkpoints

    content = _load(path)
    environments = None
    while time.time() < deadline:
        claimed = None
        for file in sorted(folder.glob("*.todo")):
            try:
                claimed = file.rename(file.with_suffix(f".{os.getpid()}"))
                break
            except FileNotFoundError:
                continue
        if claimed is None:
            if done.is_set():
                return
            time.sleep(0.2)
            continue
        facts, params = pickle.loads(claimed.read_bytes())
        config = checkpoints.frozen_config(facts["config"])
        if environments is None:
            settings = ml_collections.ConfigDict(config.env)
            settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
            environments = _Kept(settings)
        start = time.time()
        try:
            outcome = evaluate(content, facts, params, environments, config)
        except Exception as error:
            print(f"{facts['job']} {facts['run']}: {type(error).__name__}: {error}", flush=True)
            continue
        line = {k: v for k, v in facts.items() if k != "config"} | {"success": outcome, "evaluate_s": time.time() - start}
        claimed.with_suffix(".result").write_text(json.dumps(line))


def run(path: Path, output: Path, trainers: int, evaluators: int, seconds: float) -> None:
    """Trains and evaluates what `output` does not hold yet, for that long."""
    deadline = time.time() + seconds
    folder = Path("/tmp/fleet_runs")
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    index, done = context.Value("i", 0), context.Event()
    learners = [context.Process(target=_trainer, args=(path, folder, deadline, index)) for _ in range(trainers)]
    for process in learners:
        process.start()
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "MUJOCO_GL": "disable", "QT_JAX_GL_PROBED": "disable", "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }  # fmt: skip
    actors = [context.Process(target=_evaluator, args=(path, folder, deadline, done)) for _ in range(evaluators)]
    for process in actors:
        process.start()
    for process in learners:
        process.join()
    print(f"trained after {time.time() - deadline + seconds:.0f} s", flush=True)
    done.set()
    for process in actors:
        process.join(max(1.0, deadline - time.time()))
        process.terminate()
    results = [file.read_text() for file in sorted(folder.glob("*.result"))]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(line + "\n" for line in results))
    print(f"{len(results)} runs in {time.time() - deadline + seconds:.0f} s -> {output}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument("--evaluators", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    run(given.pack, given.output, given.trainers, given.evaluators, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
