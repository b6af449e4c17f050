"""Errors of checkpoints: why one cannot be read or written, and what to do.

No message has a person delete files that may be whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp
from etils import epath

from qt_jax import faults
from qt_jax.errors import UserError
from qt_jax.training.peers import check_barrier

_DAMAGE = (
    r"DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|Truncated|[Cc]orrupt|Error decoding|does not exist|"
    r"was not found in the checkpoint"
)
"""Messages of TensorStore and Orbax about files that are cut short, changed or missing."""


@contextlib.contextmanager
def readable(directory: epath.Path, step: int) -> Iterator[None]:
    """Turns what fails within, while the checkpoint of `step` is read, into a UserError.

    It says whether something outside of the files failed, whether they are damaged, or that neither is known.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        check_barrier(error)
        path, why = directory / str(step), faults.root_cause(error)
        if fault := faults.find(error):
            raise UserError(
                f"{path} cannot be read: {fault.what} ({why}). Its files are not at fault, leave them; "
                f"{fault.remedy}, and start again.",
                topic=fault.topic,
            ) from error
        earlier = [s for s in steps_in(directory) if s < step]
        onwards = f"continue from {directory / str(earlier[-1])}" if earlier else "start from the beginning"
        if _damaged(error):
            raise UserError(f"{path} is damaged ({why}); delete or move it to {onwards}.") from error
        raise UserError(
            f"{path} cannot be read ({why}); its files may be whole, so keep them: start again with the "
            f"qt_jax and packages of its run (starts.jsonl), or move it away to {onwards}."
        ) from error


def _damaged(error: Exception) -> bool:
    kinds = FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError
    causes = faults.chain(error)
    return any(isinstance(one, kinds) or re.search(_DAMAGE, faults.text_of(one)) for one in causes)


@contextlib.contextmanager
def written(directory: epath.Path) -> Iterator[None]:
    """Turns what fails within, while a checkpoint is written, into a UserError.

    It names the last complete checkpoint.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        check_barrier(error)
        fault = faults.find(error)
        try:
            steps = list_steps(directory)
            last = f"is {directory / str(steps[-1])}" if steps else "does not exist yet"
            last = f"the last complete checkpoint {last}"
        except UserError:
            last = "the complete checkpoints stay as they are"
        what = f"{fault.what}, {faults.root_cause(error)}" if fault else faults.root_cause(error)
        remedy = fault.remedy if fault else "free or mount the storage"
        raise UserError(
            f"{directory} cannot be written ({what}); {remedy}, and start again: {last}.",
            topic=fault.topic if fault else "storage",
        ) from error


def steps_in(directory: epath.Path) -> list[int]:
    """Lists as `list_steps` does; returns none where the directory cannot be listed."""
    try:
        return list_steps(directory)
    except UserError:
        return []


def list_steps(directory: epath.Path) -> list[int]:
    """Lists the steps of the complete checkpoints.

    Their names are the steps: a checkpoint that was moved to `bak_10` does not count.

    Raises:
        UserError: if a directory that is there cannot be listed.

    """
    try:
        names = {path.name for path in ocp.utils.checkpoint_steps_paths(directory)}
        return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))
    except Exception as error:  # each store has its own
        fault = faults.find(error)
        what, remedy = (f"{fault.what}, ", fault.remedy) if fault else ("", "look at the storage")
        raise UserError(
            f"{directory} cannot be listed ({what}{faults.root_cause(error)}); {remedy}, and start again.",
            topic=fault.topic if fault else "storage",
        ) from error


def only_once() -> None:
    """Silences Orbax's own threads and log: a `Checkpointer` raises what fails in them."""

    def elsewhere(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    def hook(failed: threading.ExceptHookArgs) -> None:
        frames = traceback.walk_tb(failed.exc_traceback)
        if not any("orbax" in frame.f_code.co_filename for frame, _ in frames):
            before(failed)

    before, threading.excepthook = threading.excepthook, hook
    absl.logging.get_absl_logger().addFilter(elsewhere)


def refuse_other_shapes(
    saved: Any,
    expected: Any,
    path: Any,
    remedy: str = "Use its config.model, config.agent and action bins and the commit in its starts.jsonl, "
    "or another config.workdir.",
) -> None:
    """Refuses a checkpoint whose tree of parameters is another than the network's.

    Args:
        saved: Orbax's metadata of a tree.
        expected: the tree that is to be read.
        path: of the checkpoint.
        remedy: what to do.

    Raises:
        UserError: naming the first parameter, or moment of the optimiser, that differs.

    """
    theirs, mine = _shapes(saved), _shapes(expected)
    if theirs == mine:
        return
    differing = [name for name in sorted(set(mine) | set(theirs)) if mine.get(name) != theirs.get(name)]
    name = next((name for name in differing if "params" in name), differing[0])
    has = f"parameter {name} of shape {theirs[name]}" if name in theirs else f"no parameter {name}"
    needs = str(mine[name]) if name in mine else "none"
    raise UserError(
        f"{path} has {has}, this config's network has {needs}: it was trained with other settings or another "
        f"version of the code, and is whole. {remedy}",
        topic="other-settings",
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Lists shapes by a name that is the same whether a dict, a dataclass or a named tuple holds them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(map(_name, path)): tuple(leaf.shape) for path, leaf in leaves}


def _name(key: Any) -> str:
    return str(next(getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field)))
