"""Many small state-only runs, trained and evaluated one by one on CPUs, or several as one program on an accelerator (training/fleet.py).

`pack` writes all that they need into one file, from collected pools; `run` does the runs of a pack that its output does not hold, so that
it can be stopped at any time. It does without TFDS, RLDS files and the text encoder.
"""

from __future__ import annotations

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
from qt_jax.specs import ActionSpec, ObservationSpec, PolicySpec
from qt_jax.statistics import Statistics
from qt_jax.training import checkpoints, fleet

CHUNK = 250
"""Steps between metrics."""


@dataclasses.dataclass(frozen=True)
class Data:
    """One pool as a network sees it: its segments, statistics of its raw states, action and observation."""

    pool: Pool
    statistics: Statistics
    action: ActionSpec
    observation: ObservationSpec


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a job. data: number of what it is trained on, among the job's; groups: what it draws from; seed: of its training."""

    name: str
    data: int
    groups: tuple[Group, ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs that differ in data and seed alone: one program. config: plain, as in a checkpoint's assets; data: which of the pack's."""

    config: dict[str, Any]
    data: tuple[int, ...]
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class Pack:
    """sentences: {instruction: embedding}."""

    data: list[Data]
    instruction_dim: int
    dt: float
    sentences: dict[str, np.ndarray]
    jobs: list[Job]


def pack(configs: dict[str, Any], path: Path) -> None:
    """Writes the file of these runs, {name: config}."""
    from qt_jax import text
    from qt_jax.cli import datasets
    from qt_jax.data import loader, mixture
    from qt_jax.training import inputs

    wanted: dict[Any, tuple[Any, list[Group]]] = {}
    programs: dict[str, list[tuple[str, Any, Any, tuple[Group, ...]]]] = {}
    for run, config in configs.items():
        frozen, recipe, assets = inputs.load(config, datasets.entries(config))
        groups = mixture.groups(recipe.mixture, recipe.cutting)
        key = config.data.path, config.data.step_penalty, recipe.layout(0)  # all that decides what a segment holds
        wanted.setdefault(key, (recipe, []))[1].extend(groups)
        plain = checkpoints.plain_config(frozen)
        program = {name: part for name, part in plain.items() if name not in ("data", "seed", "workdir", "collect")}
        program["data"] = [config.data.batch_size, plain["data"]["augment"], repr((recipe.layout(0).network_action, recipe.cutting))]
        programs.setdefault(json.dumps(program, sort_keys=True), []).append((run, frozen, key, groups))
    data = [
        Data(loader.read_pool(recipe, groups), layout.state, layout.network_action, layout.network_observation)
        for (_, _, layout), (recipe, groups) in wanted.items()
    ]
    numbers = {key: number for number, key in enumerate(wanted)}
    jobs = []
    for runs in programs.values():
        own = tuple(sorted({numbers[key] for _, _, key, _ in runs}))
        members = tuple(Member(run, own.index(numbers[key]), groups, frozen.seed) for run, frozen, key, groups in runs)
        jobs.append(Job(checkpoints.plain_config(runs[0][1]), own, members))
    sentences = {tasks.INSTRUCTIONS[task][0]: text.embed(tasks.INSTRUCTIONS[task][0]) for task in assets.data if task != "all"}
    content = Pack(data, assets.instruction_dim, assets.datasets["collected"].dt, sentences, jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(pickle.dumps(content), preset=1))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {len(data)} pools, {len(jobs)} programs, {len(configs)} runs")


def _load(path: Path) -> Pack:
    return pickle.loads(lzma.decompress(path.read_bytes()))


def _network(content: Pack, config: Any, data: Data) -> Network:
    return Network.create(config.model, data.action, data.observation, content.instruction_dim)


def train(content: Pack, job: Job) -> list[tuple[dict[str, Any], dict]]:
    """Trains a job's runs together: of each what is to be known about its training, and its parameters."""
    config = checkpoints.frozen_config(job.config)
    data = [content.data[number] for number in job.data]
    arrays, offsets = fleet.joined([one.pool for one in data])  # of all, so that runs on any of them are the same compiled program
    members = [
        fleet.Draws(fleet.Run(m.groups, m.seed), data[m.data].pool, offsets[m.data], config.data.batch_size, config.data.shuffle_episodes)
        for m in job.members
    ]
    began, metrics = time.time(), {}
    runs = fleet.Fleet(config, _network(content, config, data[0]), arrays, [m.seed for m in job.members])
    for start in range(0, config.train.steps, CHUNK):
        steps = min(CHUNK, config.train.steps - start)
        metrics = jax.device_get(runs.train(np.stack([draws.take(steps) for draws in members], axis=1)))
    facts = {"together": len(job.members), "train_s": time.time() - began, "device": jax.devices()[0].device_kind}
    return [
        ({"run": member.name, "metrics": {name: float(values[i]) for name, values in metrics.items()}} | facts, params)
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


def evaluate(content: Pack, data: Data, params: dict, environments: _Kept, config: Any) -> dict[str, list[bool]]:
    """Success of one run in each task's episodes, as the `evaluate` door has it."""
    action = data.action
    spec = PolicySpec(action, data.observation, action.slots_in(action), config.model.window, content.instruction_dim, "packed",
                      agents.get(config.agent.name).SCORE_NAME, content.dt)  # fmt: skip
    made = live.of_robot(config, _network(content, config, data), spec, data.statistics, beam=1)
    policy = Policy(spec, data.statistics, params, made.encode, made.decode, config.evaluate.num_envs)
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


def _do(job: Job) -> list[dict[str, Any]]:
    content, config = _OPENED["pack"], checkpoints.frozen_config(job.config)
    if "environments" not in _OPENED:
        settings = ml_collections.ConfigDict(config.env)
        settings.max_decisions = config.evaluate.max_decisions or settings.max_decisions
        _OPENED["environments"] = _Kept(settings)
    rows = []
    for member, (facts, params) in zip(job.members, train(content, job)):
        start = time.time()
        success = evaluate(content, content.data[job.data[member.data]], params, _OPENED["environments"], config)
        rows.append(facts | {"success": success, "evaluate_s": time.time() - start})
    return rows


def run(path: Path, output: Path, processes: int, together: int, **facts: Any) -> None:
    """Trains and evaluates what `output` does not hold yet, so many runs of a job as one program; a JSON line a run, with `facts`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    known = {json.loads(line)["run"] for line in output.read_text().splitlines()} if output.exists() else set()
    units = []
    for job in _load(path).jobs:
        left = [member for member in job.members if member.name not in known]
        units += [dataclasses.replace(job, members=tuple(left[i : i + together])) for i in range(0, len(left), together)]
    with multiprocessing.get_context("spawn").Pool(processes, _open, (path,)) as pool, open(output, "a") as file:
        for rows in tqdm.tqdm(pool.imap_unordered(_do, units), total=len(units)):
            file.write("".join(json.dumps(row | facts) + "\n" for row in rows))
            file.flush()
