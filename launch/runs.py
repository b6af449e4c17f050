"""What is to be run: an experiment with its settings, or each run of a sweep of it."""

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
from qt_jax.training.config import validate
from qt_jax.training.continuing import refuse_to_continue

AGAIN = (EXIT_PREEMPTED, EXIT_HUNG, EXIT_PEER_LOST, 134, 143)
"""Exit statuses after which the same command is started again; 134: JAX's own abort when process 0 is killed;
143: SIGTERM came while Python itself started."""
KILLED = (137,)
"""Of a process that was killed: where the whole machine is the scheduler's, its doing."""

READ: set[str] = set()
"""Files that this process opened while it loaded experiments."""
_loading = threading.Event()


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _loading.is_set() and isinstance(arguments[0], str):
        READ.add(arguments[0])


sys.addaudithook(_hear)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run. overrides: {"agent.alpha": 3.0} beside those of all runs; settings: `--config.KEY=VALUE` of
    all that differs from the file; evaluate: whether the trained policy is rolled out too.
    """

    name: str
    experiment: str
    overrides: dict[str, Any]
    settings: tuple[str, ...]
    config: ml_collections.ConfigDict
    evaluate: bool = False

    @property
    def workdir(self) -> str:
        return self.config.workdir

    @property
    def logs(self) -> Path:
        """Where launchers on this machine write: its directory, or for one in a bucket a folder of that name
        in runs/logs.
        """
        store, bucket, name = self.workdir.partition("://")
        return Path("runs/logs" if bucket else "", name or store).expanduser().resolve()

    def commands(self, python: str = "python") -> list[list[str]]:
        """That start it, and that continue it wherever it was stopped."""
        doors = ("train", "evaluate") if self.evaluate else ("train",)
        return [
            [python, "-m", "qt_jax", door, f"--config={self.experiment}", *self.settings] for door in doors
        ]

    def shell(self, python: str = "python") -> str:
        """`commands` as one line of a shell."""
        return " && ".join(shlex.join(command) for command in self.commands(python))

    def step(self) -> int:
        """Of its last complete checkpoint; 0 where there is none."""
        return checkpoints.latest_step(self.workdir) if checkpoints.exists(self.workdir) else 0

    def finished(self) -> bool:
        """Raises a UserError if what its directory holds is finished, but of another config."""
        if self.step() < self.config.train.steps:
            return False
        saved, asked = checkpoints.load_assets(self.workdir).config, checkpoints.plain_config(self.config)
        asked["value_range"] = asked["value_range"] or saved["value_range"]
        refuse_to_continue(saved, asked, self.step(), self.workdir)
        return not self.evaluate or (storage.directory(self.workdir) / "evaluation.json").exists()


def check_devices(runs: Sequence[Run], devices: int, slices: int = 1) -> None:
    """Raises a UserError for a run whose mesh or batch does not suit that many devices in all, of so many
    slices.
    """
    for run in runs:
        try:
            validate(run.config, devices)
            mesh.axis_across(run.config.mesh, devices, slices)
        except UserError as error:
            raise UserError(f"{run.name} on {devices} devices: {error}") from None


def check_distributed(runs: Sequence[Run], hosts: int) -> None:
    """Raises a UserError for a run whose processes are told who they are, as only the launcher can tell each;
    one host may be told that it is alone.
    """
    for run in runs:
        given = run.config.distributed
        for key, default in (("coordinator", ""), ("num_processes", 0), ("process_id", -1)):
            alone = hosts == 1 and not given.coordinator and given.num_processes == 1
            if given[key] != default and not alone:
                raise UserError(
                    f"{run.name}: config.distributed.{key} is {given[key]!r} for every host; leave it out, "
                    "the hosts find each other by themselves."
                )


def single(experiment: str, settings: Sequence[str], evaluate: bool = False) -> Run:
    """The run of an experiment file. Raises a UserError for settings that the file does not have."""
    config = resolve(experiment, settings)
    return Run(Path(config.workdir).name, experiment, {}, tuple(settings), config, evaluate)


def sweep(path: str, settings: Sequence[str], evaluate: bool = False) -> list[Run]:
    """Every run of a sweep, each in a directory whose name says in what it differs: the same one whenever the
    sweep is expanded.

    Args:
        path: a file with CONFIG, an experiment file, and `overrides()`, which yields {"agent.alpha": 3.0,
            "seed": 1} for each run.
        settings: `--config.KEY=VALUE` for all runs. A `config.workdir` among them is the directory of the
            whole sweep.

    Raises:
        UserError: for a file without these, runs that are the same, or settings that the experiment does not
            have.

    """
    module = _load(path)
    root, others = f"runs/sweeps/{Path(path).stem}", []
    for setting in settings:
        key, _, value = setting.partition("=")
        root, others = (value, others) if key == "--config.workdir" else (root, [*others, setting])
    runs = {}
    for overrides in _overrides(path, module):
        name = name_of(overrides)
        if name in runs:
            raise UserError(
                f"{path}: overrides() gives two runs of the name {name!r}; every run must differ from the others, by its name too."
            )
        given = tuple(
            f"--config.{key}={value}" for key, value in ({"workdir": f"{root}/{name}"} | overrides).items()
        )
        runs[name] = Run(
            name,
            module.CONFIG,
            overrides,
            (*others, *given),
            resolve(module.CONFIG, (*others, *given)),
            evaluate,
        )
    if not runs:
        raise UserError(f"{path}: overrides() gives no run.")
    return list(runs.values())


def name_of(overrides: dict[str, Any]) -> str:
    """A directory's name: `alpha=3.0,seed=1`; with whole keys where two end alike."""
    last = {key: key.rpartition(".")[2] for key in overrides}
    shown = last if len(set(last.values())) == len(last) else {key: key for key in overrides}
    return ",".join(
        f"{shown[key]}={re.sub('[^A-Za-z0-9.+_-]', '', str(value))}" for key, value in overrides.items()
    )


def resolve(experiment: str, settings: Sequence[str]) -> ml_collections.ConfigDict:
    """The config of `--config=experiment` with these settings, as the doors read it.

    Raises:
        UserError: if there is no such file, setting or value.

    """
    file = experiment.partition(":")[0]
    if not os.path.isfile(file):
        raise UserError(
            f"There is no experiment {file} in {Path.cwd()}; launch from the folder that its name starts "
            "from, the repository's root as a rule."
        )
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
        told = problem(error, given)
        raise UserError(f"{experiment} with {shlex.join(settings) or 'its own settings'}: {told}") from error
    finally:
        _loading.clear()
    return config


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("sweep", path)
    if spec is None or not Path(path).exists():
        raise UserError(
            f"There is no sweep {path} in {Path.cwd()}; give a file such as experiments/sweeps/alpha.py."
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := [name for name in ("CONFIG", "overrides") if not hasattr(module, name)]:
        raise UserError(
            f"{path} has no {' and no '.join(missing)}; a sweep has CONFIG, an experiment file, and "
            "overrides(), a generator."
        )
    return module


def _overrides(path: str, module: Any) -> list[dict[str, Any]]:
    try:
        found = list(module.overrides())
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"{path}: overrides() raised {type(error).__name__}: {error}") from error
    for overrides in found:
        if (
            not (isinstance(overrides, dict) and overrides and all(isinstance(key, str) for key in overrides))
            or "workdir" in overrides
        ):
            raise UserError(
                f'{path}: overrides() gives {overrides!r}; expected settings such as {{"agent.alpha": 3.0}}, without a workdir.'
            )
    return found
