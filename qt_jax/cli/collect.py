"""`collect`: the simulator's episodes as an RLDS dataset at config.data.path."""

from __future__ import annotations

import collections
import functools
import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import tqdm

from qt_jax.data import rlds_writer
from qt_jax.envs import collectors, gl, metaworld
from qt_jax.errors import UserError


def main(config: Any) -> None:
    task_names = metaworld.suite_tasks(config.env.tasks)
    observation = metaworld.observation_spec(config.env)
    if observation.cameras:
        gl.require_backend()  # before the workers start, so that they inherit the choice
    batches = collectors.plan_episodes(config.collect, task_names)
    planned = sum(map(len, batches))
    if not planned:
        raise UserError("config.collect has demonstrations=0 and autonomous=0; give at least one episode a task.")
    successes: collections.Counter = collections.Counter()
    totals: collections.Counter = collections.Counter()

    def counted(episodes: Iterator[Any]) -> Iterator[Any]:
        for episode in tqdm.tqdm(episodes, total=planned, desc="collect", unit="episode"):
            key = (episode.plan.task, episode.plan.collector)
            totals[key] += 1
            successes[key] += episode.success
            yield episode

    # An interrupt is the parent's to handle: it ends the workers with the pool.
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(max(1, config.collect.workers), ignore) as pool:
        episodes = itertools.chain.from_iterable(pool.imap(functools.partial(collectors.collect_episodes, config), batches))
        path = rlds_writer.write(
            config.data.path,
            counted(episodes),
            action=metaworld.action_spec(config.env),
            observation=observation,
            description=f"Meta-World {', '.join(task_names)}; state: {observation.state_description}",
            file_format=config.collect.file_format,
        )
    print(f"{path}: {sum(totals.values())} episodes, {sum(successes.values()) / sum(totals.values()):.0%} successful")
    for (task, collector), total in sorted(totals.items()):
        print(f"  {task:28}{collector:18}{total:5} episodes  {successes[task, collector] / total:6.0%} successful")
