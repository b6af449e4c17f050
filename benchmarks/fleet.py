"""Many small state-only runs on one accelerator (qt_jax/training/fleet.py), trained there and evaluated here.

`pack` writes what they need into one file: `train` does without TFDS, text encoder, simulator and network. `evaluate` plays the trained
runs in the simulator, as the `evaluate` door does.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import lzma
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm

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


def pack(configs: dict[str, Any], path: Path) -> None:
    """Writes the file of these runs {name: config}; those that differ in data, seed and workdir alone become one job."""
    from qt_jax import text
    from qt_jax.cli import datasets
    from qt_jax.data import loader, mixture
    from qt_jax.envs import metaworld_tasks as tasks
    from qt_jax.training import checkpoints, inputs

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
    members = [
        fleet.Draws(fleet.Run(m.groups, m.seed), pools[m.pool], place[m.pool], config.data.batch_size, config.data.shuffle_episodes)
        for m in job.members
    ]
    take = lambda: np.stack([draws.take(CHUNK) for draws in members], axis=1)
    started, compiled, curves = time.time(), None, []
    with concurrent.futures.ThreadPoolExecutor(1) as ahead:
        rows = ahead.submit(take)
        runs = fleet.Fleet(config, network, arrays, [m.seed for m in job.members])
        for start in range(0, config.train.steps, CHUNK):
            now, rows = rows.result(), ahead.submit(take)
            metrics = jax.device_get(runs.train(now))
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
            "curve": {name: [c[name][i] for c in curves] for name in ("loss",)}, "train_s": end - started, "together": len(job.members),
            "step_ms": 1e3 * per_step, "device": jax.devices()[0].device_kind,
        }  # fmt: skip
        temporary = folder / f"{job.name}.{i}.tmp"
        temporary.write_bytes(pickle.dumps((facts, jax.tree.map(lambda x: x.astype(np.float16), params))))
        temporary.rename(folder / f"{job.name}.{i}.todo")
    print(f"{job.name}: {len(job.members)} runs, first chunk {compiled - started:.1f} s, "
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


def train(path: Path, output: Path, processes: int, seconds: float) -> None:
    """Trains the jobs of a pack, for that long; writes files of runs and their parameters (float16), none above 15 MiB."""
    deadline = time.time() + seconds
    context = multiprocessing.get_context("spawn")
    index = context.Value("i", 0)
    with tempfile.TemporaryDirectory() as made:
        learners = [context.Process(target=_trainer, args=(path, Path(made), deadline, index)) for _ in range(processes)]
        for process in learners:
            process.start()
        for process in learners:
            process.join()
        output.mkdir(parents=True, exist_ok=True)
        runs, size, number = [], 0, 0
        for file in [*sorted(Path(made).glob("*.todo")), None]:
            if file is None or size + file.stat().st_size > 15 * 2**20:
                (output / f"{path.stem}_{number}.runs").write_bytes(pickle.dumps(runs))
                runs, size, number = [], 0, number + 1
            if file is not None:
                runs.append(file.read_bytes())
                size += file.stat().st_size
    print(f"trained for {time.time() - deadline + seconds:.0f} s", flush=True)


def evaluate_all(path: Path, folder: Path, output: Path, processes: int) -> None:
    """Evaluates what `train` wrote into `folder`; a JSON line a run."""
    context = multiprocessing.get_context("spawn")
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "MUJOCO_GL": "disable", "QT_JAX_GL_PROBED": "disable", "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_COMPILATION_CACHE_DIR": "/tmp/fleet_cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    runs = [run for file in sorted(folder.glob(f"{path.stem}_*.runs")) for run in pickle.loads(file.read_bytes())]
    output.parent.mkdir(parents=True, exist_ok=True)
    known = {json.loads(line)["run"] for line in output.read_text().splitlines()} if output.exists() else set()
    runs = [run for run in runs if pickle.loads(run)[0]["run"] not in known]
    with context.Pool(processes, _open, (path,)) as pool, open(output, "a") as file:
        for line in tqdm.tqdm(pool.imap_unordered(_evaluate_one, runs), total=len(runs)):
            file.write(line + "\n")
            file.flush()


_OPENED: dict[str, Any] = {}


def _open(path: Path) -> None:
    _OPENED["pack"] = _load(path)


def _evaluate_one(run: bytes) -> str:
    import ml_collections

    from qt_jax.training import checkpoints

    facts, params = pickle.loads(run)
    config = checkpoints.frozen_config(facts["config"])
    if "environments" not in _OPENED:
        settings = ml_collections.ConfigDict(config.env)
        settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
        _OPENED["environments"] = _Kept(settings)
    start = time.time()
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    outcome = evaluate(_OPENED["pack"], facts, params, _OPENED["environments"], config)
    return json.dumps({k: v for k, v in facts.items() if k != "config"} | {"success": outcome, "evaluate_s": time.time() - start})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("train", "evaluate"))
    parser.add_argument("pack", type=Path)
    parser.add_argument("folder", type=Path, help="of the runs that `train` writes and `evaluate` reads")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which `train` gives up")
    parser.add_argument("--output", type=Path, help="JSON lines that `evaluate` writes")
    given = parser.parse_args()
    if given.action == "train":
        train(given.pack, given.folder, given.processes, given.seconds)
    else:
        evaluate_all(given.pack, given.folder, given.output, given.processes)


if __name__ == "__main__":
    sys.exit(main())
