"""`collect`: the simulator's episodes as an RLDS dataset at config.data.path, from this machine or from a
Beam runner's.
"""

from __future__ import annotations

import collections
import functools
import itertools
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

import tqdm

from qt_jax.cli import beam_collect
from qt_jax.curation import rlds_writer
from qt_jax.envs import collectors, gl, suites
from qt_jax.errors import UserError


def main(config: Any) -> None:
    suite = suites.of(config)
    task_names = suite.suite_tasks(config.env.tasks)
    observation = suite.observation_spec(config.env)
    rlds_writer.check_runner(config.collect.runner)
    if observation.cameras:
        gl.require_backend()  # before the workers start, so that they inherit the choice
    batches = collectors.plan_episodes(config.collect, task_names)
    if not batches:
        raise UserError(
            "config.collect has demonstrations=0 and autonomous=0; give at least one episode a task."
        )
    dataset = dict(
        action=suite.action_spec(config.env),
        observation=observation,
        description=f"{config.env.suite}: {', '.join(task_names)}; state: {observation.state_description}",
        file_format=config.collect.file_format,
    )
    if config.collect.runner == "local":
        _collect_here(config, batches, dataset)
    else:
        starts = itertools.accumulate(map(len, batches), initial=0)
        collect = functools.partial(beam_collect.collect, config)
        units = list(zip(starts, batches))
        try:
            path = rlds_writer.write_with_beam(
                config.data.path, units, collect, options=config.collect.beam_options, **dataset
            )
        finally:
            _kill_workers()  # Beam's direct runner works in this process
        print(f"{path}: {sum(map(len, batches))} episodes")


def _collect_here(config: Any, batches: list[list[collectors.EpisodePlan]], dataset: dict[str, Any]) -> None:
    planned = sum(map(len, batches))
    successes: collections.Counter = collections.Counter()
    totals: collections.Counter = collections.Counter()

    def counted(episodes: Iterator[Any]) -> Iterator[Any]:
        for episode in tqdm.tqdm(episodes, total=planned, desc="collect", unit="episode"):
            key = (episode.plan.task, episode.plan.collector)
            totals[key] += 1
            successes[key] += episode.success
            yield episode

    interrupted = threading.Event()
    signal.signal(signal.SIGINT, functools.partial(_interrupt, interrupted))
    ignore = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_IGN
    )  # an interrupt is the parent's to handle
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max(1, config.collect.workers), spawn, ignore) as pool:
            episodes = itertools.chain.from_iterable(
                pool.map(functools.partial(collectors.collect_episodes, config), batches)
            )
            path = rlds_writer.write(config.data.path, counted(episodes), **dataset)
    except BrokenProcessPool as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise UserError(
            f"A process of config.collect.workers={config.collect.workers} died, by lack of memory or in the GL driver; collect with fewer."
        ) from error
    print(
        f"{path}: {sum(totals.values())} episodes, {sum(successes.values()) / sum(totals.values()):.0%} successful"
    )
    for (task, collector), total in sorted(totals.items()):
        print(
            f"  {task:28}{collector:18}{total:5} episodes  {successes[task, collector] / total:6.0%} successful"
        )


def _interrupt(interrupted: threading.Event, *_: Any) -> NoReturn:
    """The exception may be lost in a library's callback.

    That the workers are gone ends the collection all the same.
    """
    interrupted.set()
    _kill_workers()
    raise KeyboardInterrupt


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
