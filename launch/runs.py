"""Reads what is to be run: an experiment with its settings, or each run of a sweep."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from qt_jax import storage
from qt_jax.cli.settings import problem
from qt_jax.errors import EXIT_HUNG, EXIT_PEER_LOST, EXIT_PREEMPTED, UserError
from qt_jax.training import checkpoints, distributed, mesh
from qt_jax.training.assets import plain_config
from qt_jax.training.config import validate
from qt_jax.training.continuing import refuse_to_continue

AGAIN = (EXIT_PREEMPTED, EXIT_HUNG, EXIT_PEER_LOST, 134, 143)
"""Exit statuses after which the same command is started again.

134: JAX's own abort when process 0 is killed. 143: SIGTERM came while Python itself started.
"""
KILLED = (137,)
"""Exit status of a killed process; where a scheduler has the whole machine, the scheduler killed it."""

READ: set[str] = set()
"""Files that this process opened while it loaded experiments."""
_loading = threading.Event()


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    """Adds a file to `READ`, as a hook of Python's audit events."""
    if event == "open" and _loading.is_set() and isinstance(arguments[0], str):
        READ.add(arguments[0])


sys.addaudithook(_note_opened)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: its own among the runs.
        experiment: the experiment file, with what may follow its name after a colon.
        overrides: what a sweep sets in this run, such as {"agent.alpha": 3.0}.
        settings: `--config.KEY=VALUE` of all that differs from the file.
        config: the experiment's config with these settings.
        evaluate: whether the trained policy is rolled out too.

    """

    name: str
    experiment: str
    overrides: dict[str, Any]
    settings: tuple[str, ...]
    config: ml_collections.ConfigDict
    evaluate: bool = False

    @property
    def workdir(self) -> str:
        """The run's directory, maybe in a bucket."""
        return self.config.workdir

    @property
    def logs(self) -> Path:
        """Folder for logs on this machine: the run's directory, or runs/logs/NAME for one in a bucket."""
        store, bucket, name = self.workdir.partition("://")
        return Path("runs/logs" if bucket else "", name or store).expanduser().resolve()

    def commands(self, python: str = "python") -> list[list[str]]:
        """Returns the commands that start the run; the same ones continue it wherever it was stopped."""
        names = ("train", "evaluate") if self.evaluate else ("train",)
        settings = [f"--config={self.experiment}", *self.settings]
        return [[python, "-m", "qt_jax", name, *settings] for name in names]

    def shell(self, python: str = "python") -> str:
        """Returns `commands` as one line of a shell."""
        return " && ".join(shlex.join(command) for command in self.commands(python))

    def step(self) -> int:
        """Returns the step of the run's last complete checkpoint; 0: there is none."""
        return checkpoints.latest_step(self.workdir) if checkpoints.exists(self.workdir) else 0

    def finished(self) -> bool:
        """Returns whether the run is trained, and evaluated if that is asked.

        Raises:
            UserError: if its directory holds a finished run of another config.

        """
        if self.step() < self.config.train.steps:
            return False

        saved, asked = checkpoints.load_assets(self.workdir).config, plain_config(self.config)
        asked["value_range"] = asked["value_range"] or saved["value_range"]
        refuse_to_continue(saved, asked, self.step(), self.workdir)
        return not self.evaluate or (storage.directory(self.workdir) / "evaluation.json").exists()


def check_devices(runs: Sequence[Run], devices: int, slices: int = 1) -> None:
    """Checks that each run's mesh and batch suit this many devices in all, in this many slices.

    Raises:
        UserError: naming a run that does not.

    """
    for run in runs:
        try:
            validate(run.config, devices)
            mesh.axis_across(run.config.mesh, devices, slices)
        except UserError as error:
            raise UserError(f"{run.name} on {devices} devices: {error}") from None


def check_distributed(runs: Sequence[Run], hosts: int) -> None:
    """Checks that no run sets for every host what differs between hosts: its process number and the like.

    One host alone may set `num_processes=1`.

    Raises:
        UserError: naming the run and its setting.

    """
    for run in runs:
        given = run.config.distributed
        for key, default in (("coordinator", ""), ("num_processes", 0), ("process_id", -1)):
            alone = hosts == 1 and not given.coordinator and given.num_processes == 1
            if given[key] != default and not alone:
                setting = f"config.distributed.{key} is {given[key]!r} for every host"
                raise UserError(
                    f"{run.name}: {setting}; leave it out, the hosts find each other by themselves."
                )


def single(experiment: str, settings: Sequence[str], evaluate: bool = False) -> Run:
    """Returns the run of an experiment file.

    Raises:
        UserError: for settings that the file does not have.

    """
    config = resolve(experiment, settings)
    return Run(Path(config.workdir).name, experiment, {}, tuple(settings), config, evaluate)


def sweep(path: str, settings: Sequence[str], evaluate: bool = False) -> list[Run]:
    """Returns every run of a sweep, each in a directory whose name says what the run sets.

    Args:
        path: a file with CONFIG, an experiment file, and `overrides()`, which yields {"agent.alpha": 3.0,
            "seed": 1} for each run.
        settings: `--config.KEY=VALUE` for all runs. A `config.workdir` among them is the directory of the
            whole sweep.
        evaluate: whether the trained policies are rolled out too.

    Raises:
        UserError: for a file without these, two runs with one name, or settings that the experiment does not
            have.

    """
    module = _load(path)
    root = f"runs/sweeps/{Path(path).stem}"
    shared = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "--config.workdir":
            root = value
        else:
            shared.append(setting)

    runs: dict[str, Run] = {}
    for overrides in _overrides(path, module):
        name = name_of(overrides)
        if name in runs:
            problem = f"{path}: overrides() gives two runs of the name {name!r}"
            raise UserError(f"{problem}; every run must differ from the others, by its name too.")
        own = {"workdir": f"{root}/{name}"} | overrides
        given = (*shared, *(f"--config.{key}={value}" for key, value in own.items()))
        runs[name] = Run(name, module.CONFIG, overrides, given, resolve(module.CONFIG, given), evaluate)

    if not runs:
        raise UserError(f"{path}: overrides() gives no run.")
    return list(runs.values())


def name_of(overrides: dict[str, Any]) -> str:
    """Returns the name of a run's directory: `alpha=3.0,seed=1`, with whole keys if two end alike."""
    last = {key: key.rpartition(".")[2] for key in overrides}
    shown = last if len(set(last.values())) == len(last) else {key: key for key in overrides}
    values = {key: re.sub("[^A-Za-z0-9.+_-]", "", str(value)) for key, value in overrides.items()}
    return ",".join(f"{shown[key]}={value}" for key, value in values.items())


def resolve(experiment: str, settings: Sequence[str]) -> ml_collections.ConfigDict:
    """Returns the config of `--config=experiment` with these settings, as the commands read it.

    Raises:
        UserError: if there is no such file, setting or value.

    """
    file = experiment.partition(":")[0]
    if not os.path.isfile(file):
        remedy = "launch from the folder that its name starts from, the repository's root as a rule"
        raise UserError(f"There is no experiment {file} in {Path.cwd()}; {remedy}.")

    given, values = ["launch", f"--config={experiment}", *settings], flags.FlagValues()
    _loading.set()
    try:
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=given)
        values(given)
        config = values.config
        validate(config, math.prod(max(config.mesh[axis], 1) for axis in mesh.AXES))
        distributed.check(config.distributed)
    except UserError:
        raise
    except Exception as error:  # whatever a config file or a value raised
        where = f"{experiment} with {shlex.join(settings) or 'its own settings'}"
        raise UserError(f"{where}: {problem(error, given)}") from error
    finally:
        _loading.clear()
    return config


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("sweep", path)
    if spec is None or spec.loader is None or not Path(path).exists():
        remedy = "give a file such as experiments/sweeps/alpha.py"
        raise UserError(f"There is no sweep {path} in {Path.cwd()}; {remedy}.")

    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := [name for name in ("CONFIG", "overrides") if not hasattr(module, name)]:
        expected = "a sweep has CONFIG, an experiment file, and overrides(), a generator"
        raise UserError(f"{path} has no {' and no '.join(missing)}; {expected}.")
    return module


def _overrides(path: str, module: Any) -> list[dict[str, Any]]:
    try:
        found = list(module.overrides())
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"{path}: overrides() raised {type(error).__name__}: {error}") from error
    for overrides in found:
        good = isinstance(overrides, dict) and overrides and all(isinstance(key, str) for key in overrides)
        if not good or "workdir" in overrides:
            expected = 'expected settings such as {"agent.alpha": 3.0}, without a workdir'
            raise UserError(f"{path}: overrides() gives {overrides!r}; {expected}.")
    return found
