"""A file with all that many small state-only runs need.

What trains the runs of a pack needs no TFDS, no RLDS files and no text encoder.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections
import numpy as np

from benchmarks import stacked_runs
from benchmarks.pool import Pool, read_pool
from qt_jax.data.order import Group
from qt_jax.envs import suites
from qt_jax.specs import Interface
from qt_jax.statistics import Statistics
from qt_jax.training.assets import frozen_config, plain_config

COMPRESSION = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 2**27}]
"""Looks back over 128 MiB, so what several pools of one seed have in common is in the file once."""


@dataclasses.dataclass(frozen=True)
class Data:
    """One pool as a network sees it: its segments, statistics of its raw states, the network's interface."""

    pool: Pool
    statistics: Statistics
    interface: Interface


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a job."""

    name: str
    data: int
    """Number of what it is trained on, among the job's."""
    groups: tuple[Group, ...]
    """What it draws from."""
    own: dict[str, float]
    """Its values of `stacked_runs.TRACED`."""
    curve: tuple[int, ...] = ()
    """Steps after which it is evaluated on the way."""
    decodes: tuple[str, ...] = ()
    """Other ways of deciding with which it is evaluated at its end, beside that of its config."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs that differ in data and `stacked_runs.TRACED` alone: one program."""

    config: dict[str, Any]
    """Plain, of one of them."""
    data: tuple[int, ...]
    """Which of the pack's."""
    members: tuple[Member, ...]

    def config_of(self, member: Member) -> Any:
        config = ml_collections.ConfigDict(frozen_config(self.config))
        config.update_from_flattened_dict(member.own)
        return ml_collections.FrozenConfigDict(config)


@dataclasses.dataclass(frozen=True)
class Pack:
    """The jobs, the data that they are trained on, and what they share."""

    data: list[Data]
    dt: float
    sentences: dict[str, np.ndarray]
    """{instruction: embedding}."""
    jobs: list[Job]
    facts: dict[str, Any]
    """What every run's row in the results has."""


def write(
    configs: dict[str, Any],
    path: Path,
    curves: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    decodes: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    **facts: Any,
) -> None:
    """Writes the file of these runs.

    Args:
        configs: {name: config}.
        path: of the file.
        curves: {name: steps of its learning curve}, of the runs that have one.
        decodes: {name: `Member.decodes`}, of the runs that have some.
        facts: what every run's row in the results has.

    """
    from qt_jax import text
    from qt_jax.data import mixture
    from qt_jax.training import datasets, setup

    wanted: dict[Any, tuple[Any, list[Group]]] = {}
    programs: dict[str, list[tuple[str, Any, Any, tuple[Group, ...]]]] = {}
    spoken: set[str] = set()
    for run, config in configs.items():
        frozen, recipe, assets = setup.prepare(config, datasets.entries(config))
        groups = mixture.groups(recipe.mixture, recipe.cutting)
        # All that decides what a segment holds.
        key = (config.data.path, config.data.step_penalty, recipe.layout(0))
        wanted.setdefault(key, (recipe, []))[1].extend(groups)
        programs.setdefault(_program(frozen, recipe), []).append((run, frozen, key, groups))
        spoken |= {suites.of(config).INSTRUCTIONS[task][0] for task in assets.data if task != "all"}
    data = [
        Data(read_pool(recipe, groups), layout.state, layout.interface)
        for (*_, layout), (recipe, groups) in wanted.items()
    ]
    numbers = {key: number for number, key in enumerate(wanted)}
    jobs = []
    for runs in programs.values():
        own = tuple(sorted({numbers[key] for _, _, key, _ in runs}))
        members = tuple(
            Member(
                run,
                own.index(numbers[key]),
                groups,
                _traced(frozen),
                curves.get(run, ()),
                decodes.get(run, ()),
            )
            for run, frozen, key, groups in runs
        )
        jobs.append(Job(plain_config(runs[0][1]), own, members))
    sentences = {sentence: text.embed(sentence) for sentence in sorted(spoken)}
    content = Pack(data, assets.datasets["collected"].dt, sentences, jobs, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(pickle.dumps(content), filters=COMPRESSION))
    mib = path.stat().st_size / 2**20
    print(f"{path}: {mib:.1f} MiB, {len(data)} pools, {len(jobs)} programs, {len(configs)} runs")


def read(path: Path) -> Pack:
    return pickle.loads(lzma.decompress(path.read_bytes()))


def _traced(config: Any) -> dict[str, float]:
    places = {
        name: (config[name.split(".")[0]] if "." in name else config, name.split(".")[-1])
        for name in stacked_runs.TRACED
    }
    return {name: section[key] for name, (section, key) in places.items() if key in section}


def _program(config: Any, recipe: Any) -> str:
    """Makes a key that is equal for runs of the same program."""
    shared = ml_collections.ConfigDict(config)
    shared.update_from_flattened_dict({name: type(value)(0) for name, value in _traced(config).items()})
    program = {
        name: part
        for name, part in plain_config(shared).items()
        if name not in ("data", "workdir", "collect")
    }
    data = [
        config.data.batch_size,
        str(config.data.augment),
        repr((recipe.layout(0).interface.decision, recipe.cutting)),
    ]
    return json.dumps([program, data], sort_keys=True)
