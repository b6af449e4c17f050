"""The commands: what each does and needs. Imports nothing that the base install lacks."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        does: what it does, for the usage.
        extras: of qt_jax that it needs, with commas between.
        config: "needed", "optional" or "none".
        flags: whether it has flags of its own.

    """

    does: str
    extras: str
    config: str = "needed"
    flags: bool = True

    def remedy(self, package: str) -> str:
        """Says how to install `package` and everything else that the command needs."""
        more = [extra for extra, its in SOMETIMES.items() if package in its and extra not in self.extras]
        return f"pip install 'qt_jax[{','.join([self.extras, *more])}]'"


SOMETIMES = {
    "sim": ("dm_control", "gymnasium", "imageio", "metaworld", "mujoco", "ogbench"),  # a config with `env`
    "data": ("av", "etils", "simplejpeg", "tensorflow_datasets"),  # `serve --record`
}
"""Packages that a command needs only under some settings, by extra."""

COMMANDS = {
    "collect": Command(
        "collect a dataset in the simulator with scripted experts and realistic failures",
        "train,data,sim",
        flags=False,
    ),
    "convert": Command("write LeRobot, HDF5 or OGBench episodes as a dataset", "data", "none"),
    "repack": Command(
        "copy TFRecord files as ArrayRecord, or a LeRobot folder, for faster reading", "data", "none"
    ),
    "inspect": Command(
        "show what is in a config's datasets, or in --data=PATH: tables, and a page with contact sheets",
        "train,data",
        "optional",
    ),
    "validate": Command(
        "list every violation of RLDS' conventions in a config's datasets, or in --data=PATH",
        "train,data",
        "optional",
    ),
    "advise": Command(
        "say whether failures help: what a config's datasets, or --data=PATH, hold, and what to train",
        "train,data",
        "optional",
    ),
    "train": Command(
        "train on datasets, from the latest checkpoint in config.workdir on",
        "train,data",
        flags=False,
    ),
    "score": Command(
        "copy a dataset with the value of each step, by networks that did not see the episode",
        "train,data",
    ),
    "plan": Command(
        "compile a config's train step for devices that need not be here: memory, FLOPs, communication",
        "train,data",
    ),
    "evaluate": Command("roll a trained policy out, with videos and an HTML report", "train,sim,serve"),
    "improve": Command(
        "rounds of experience: let the policy act, or take a robot's episodes, train on with them, evaluate",
        "train,data",
        flags=False,
    ),
    "affordances": Command(
        "compare a policy's values of instructions with what comes of them: precision, recall and F1",
        "train,sim,serve",
        flags=False,
    ),
    "export": Command("write a checkpoint as a policy artefact, which a robot loads", "train"),
    "onnx": Command("add ONNX programs to a policy artefact, for robots without jax", "onnx", "none"),
    "serve": Command(
        "serve a policy artefact over a websocket, to robots (openpi-client) and people (a page)",
        "serve",
        "none",
    ),
}


def usage() -> str:
    """Returns the usage, with a line for each command: which extras it needs, what it does."""
    lines = [f"  {name:12}{command.extras:16}{command.does}" for name, command in COMMANDS.items()]
    without = ", ".join(name for name, command in COMMANDS.items() if command.config == "none")
    return "\n".join(
        [
            "usage: python -m qt_jax COMMAND --config=experiments/FILE.py [--config.KEY=VALUE ...]",
            "",
            "commands, and the extras that they need (pip install 'qt_jax[train,data]'):",
            *lines,
            "",
            f"Without --config: {without}. A config with `env` needs sim too, `serve --record` data.",
            "`python -m qt_jax COMMAND --config=FILE --help` lists every setting with its default.",
            "`python -m qt_jax explain TOPIC` says more about an error; without TOPIC it lists all of them.",
            "The base install loads an artefact and acts: qt_jax.load_policy in Python (docs/robot.md).",
        ]
    )
