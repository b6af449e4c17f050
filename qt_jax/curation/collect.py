"""Collects a simulator's episodes into an RLDS dataset, in processes of this machine or by Beam workers."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

import tqdm
from etils import epath

from qt_jax import children
from qt_jax.curation import rlds_writer
from qt_jax.curation.kept_batches import KeptBatches
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.envs import collectors, gl, play_collection, suites
from qt_jax.envs.collectors import EpisodePlan
from qt_jax.errors import UserError
from qt_jax.export import any_policy
from qt_jax.policy.loaded import LoadedPolicy
from qt_jax.specs import INTERVENTION, LEARNED


@dataclasses.dataclass
class Collected:
    """The dataset that was written.

    Attributes:
        path: its directory.
        planned: how many episodes it has.
        episodes: {(task, collector): how many}; empty where Beam ran, whose workers count nothing.
        successes: {(task, collector): how many succeeded}; empty where Beam ran.
    """

    path: epath.Path
    planned: int
    episodes: collections.Counter[tuple[str, str]]
    successes: collections.Counter[tuple[str, str]]


Splits = dict[str, list[list[EpisodePlan]]]
"""{split: batches of plans}."""


def collect(config: Any) -> Collected:
    """Writes the dataset `config.data.path`/1.0.0 of the experiment's environment and collectors.

    On this machine it goes on where a collection with the same settings was killed.

    Args:
        config: the whole experiment's; `env`, `collect` and `data.path` are used.

    Raises:
        UserError: for a bad setting, a dataset that is there already, or a worker that died.
    """
    suite = suites.of(config)
    task_names = suite.suite_tasks(config.env.tasks)
    observation = suite.observation_spec(config.env)
    rlds_writer.check_runner(config.collect.runner)
    rlds_writer.check_free(config.data.path)  # before the workers start
    if observation.cameras:
        gl.require_backend()  # before the workers start, so that they inherit the choice
    splits: Splits
    if suite.PLAY:
        splits = play_collection.plan_episodes(config.collect, suite.PLAY)
    else:
        splits = {"train": collectors.plan_episodes(config.collect, task_names)}
    if not splits["train"]:
        raise UserError(
            "config.collect has demonstrations=0 and autonomous=0; give at least one episode a task."
        )
    about: dict[str, Any] = dict(
        action=suite.action_spec(config.env),
        observation=observation,
        description=f"{config.env.suite}: {', '.join(task_names)}; state: {observation.state_description}",
        file_format=config.collect.file_format,
        intervention=any(
            plan.collector == INTERVENTION
            for batches in splits.values()
            for plan in itertools.chain(*batches)
        ),
    )
    run = _run_here if config.collect.runner == "local" else _run_beam
    return run(config, splits, about)


def _run_beam(config: Any, splits: Splits, about: dict[str, Any]) -> Collected:
    read, options = functools.partial(_read_batch, config), config.collect.beam_options

    def units(split: str) -> list[tuple[int, list[EpisodePlan]]]:
        return list(zip(itertools.accumulate(map(len, splits[split]), initial=0), splits[split]))

    validation = units("validation") if "validation" in splits else None
    try:
        path = rlds_writer.write_with_beam(
            config.data.path, units("train"), read, options=options, validation=validation, **about
        )
    finally:
        _kill_workers()  # Beam's direct runner works in this process
    planned = sum(len(batch) for batches in splits.values() for batch in batches)
    return Collected(path, planned, collections.Counter(), collections.Counter())


def _read_batch(config: Any, batch: tuple[int, list[EpisodePlan]]) -> Iterator[tuple[int, RecordedEpisode]]:
    """Runs a batch on a Beam worker, in a process beside its own.

    Args:
        config: the whole experiment's.
        batch: the index of the first episode, and the plans.
    """
    start, plans = batch
    try:
        episodes = _simulator().submit(_episodes, config, plans).result()
    except BrokenProcessPool:
        _simulator.cache_clear()  # the runner may try this batch again
        raise
    yield from enumerate(episodes, start)


@functools.cache
def _simulator() -> ProcessPoolExecutor:
    """Returns a Beam worker's own process for all of its batches.

    The worker has TensorFlow loaded, which crashes in one process with Mesa's software renderer.
    """
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), children.end_with_parent)


def _episodes(config: Any, plans: list[EpisodePlan]) -> list[RecordedEpisode]:
    """Runs episodes of one task in a process that may have a simulator."""
    if suites.of(config).PLAY:
        return play_collection.collect_episodes(config, plans)
    acts = any(plan.collector in LEARNED for plan in plans)
    policy = _policy(config.collect.policy, config.collect.decode) if acts else None
    if policy and policy.spec.interface.action.names != (
        names := suites.of(config).action_spec(config.env).names
    ):
        raise UserError(
            f"config.collect.policy={config.collect.policy!r} is of actions "
            f"{policy.spec.interface.action.names}; config.env gives {names}: give the config that it was "
            "trained with."
        )
    return collectors.collect_episodes(config, plans, policy)


@functools.cache
def _policy(path: str, decode: str) -> LoadedPolicy:
    """Loads the policy that acts, once in each process."""
    return any_policy.load(path, decode=decode)


def _keep(config: Any, kept: KeptBatches, batch: tuple[int, list[EpisodePlan]]) -> None:
    """Runs a batch, which is its number and its plans, and writes it down."""
    number, plans = batch
    kept.write(number, _episodes(config, plans))


def _run_here(config: Any, splits: Splits, about: dict[str, Any]) -> Collected:
    kept, batches = KeptBatches(config), [batch for own in splits.values() for batch in own]
    planned, finished = sum(map(len, batches)), kept.finished(len(batches))
    if finished:
        print(f"goes on after {len(finished)} of {len(batches)} batches in {kept.folder}", flush=True)
    for folder in kept.others():
        print(f"{folder} holds what was collected with other settings; it is not used", flush=True)
    totals: collections.Counter[tuple[str, str]] = collections.Counter()
    successes: collections.Counter[tuple[str, str]] = collections.Counter()

    def counted(numbers: Iterable[int]) -> Iterator[RecordedEpisode]:
        for number in numbers:
            if number not in finished:
                next(done)  # in the order of the numbers
            for episode in kept.read(number):
                totals[episode.task, episode.collector] += 1
                successes[episode.task, episode.collector] += episode.success
                shown.update()
                yield episode

    interrupted = threading.Event()
    signal.signal(signal.SIGINT, functools.partial(_interrupt, interrupted))
    workers, spawn = max(1, config.collect.workers), multiprocessing.get_context("spawn")
    train = len(splits["train"])
    try:
        with (
            tqdm.tqdm(total=planned, desc="collect", unit="episode") as shown,
            ProcessPoolExecutor(workers, spawn, _begin_worker) as pool,
        ):
            left = [(number, batch) for number, batch in enumerate(batches) if number not in finished]
            done = pool.map(functools.partial(_keep, config, kept), left)
            validation = counted(range(train, len(batches))) if "validation" in splits else None
            try:
                path = rlds_writer.write(
                    config.data.path, counted(range(train)), validation=validation, **about
                )
            finally:
                pool.shutdown(cancel_futures=True)  # of a dataset that cannot be written
    except BrokenProcessPool as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise UserError(
            f"A process of config.collect.workers={config.collect.workers} died, by lack of memory or in the "
            "GL driver; collect with fewer.",
            topic="out-of-memory",
        ) from error
    kept.remove()
    rlds_writer.remove_unfinished(config.data.path)
    return Collected(path, planned, totals, successes)


def _begin_worker() -> None:
    children.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the command ends its workers


def _interrupt(interrupted: threading.Event, *_: Any) -> NoReturn:
    """Ends the collection at a SIGINT.

    The exception may be lost in a library's callback; that the workers are gone ends it all the same.
    """
    interrupted.set()
    _kill_workers()
    raise KeyboardInterrupt


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
