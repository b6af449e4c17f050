"""From a checkpoint to a policy artefact that agrees with it; policy/artefact.py says what is in one."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

import qt_jax
from qt_jax import text
from qt_jax.errors import UserError
from qt_jax.export import agreement, checkpoint_policy
from qt_jax.models.network import parameter_path
from qt_jax.policy import artefact
from qt_jax.policy.folder import INSTRUCTIONS, POLICY, SCHEMA, seal
from qt_jax.safety import SafetyLimits
from qt_jax.specs import GREEDY, Decoding, to_json
from qt_jax.training import checkpoints
from qt_jax.training.assets import Assets

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    workdir: str,
    output: str,
    *,
    step: int = 0,
    dataset: str = "collected",
    decoding: Decoding = GREEDY,
    candidates: int = 0,
    limits: SafetyLimits | None = None,
    batches: Sequence[int] = (),
    instructions: Sequence[str] = (),
) -> artefact.Artefact:
    """Writes the artefact of a checkpoint, and compares its actions with the checkpoint's.

    Args:
        workdir: of the run.
        output: the folder to write; an artefact there is replaced.
        step: of the checkpoint; 0: the latest.
        dataset: whose robot acts.
        decoding: how the programs decide an action.
        candidates: most actions of somebody else that the policy ranks at once.
        limits: what may be executed; None: all that is decided.
        batches: batch sizes to export programs for; none: one program for any size.
        instructions: sentences to embed and store, for robots without the text encoder.

    Raises:
        UserError: if the checkpoint cannot be read or lacks what deciding or ranking needs, the folder holds
            something else, or the two do not agree.

    """
    params, assets, step = checkpoints.load_params(workdir, step=step)
    origin = {"workdir": str(workdir), "step": step}
    return build(
        params,
        assets,
        output,
        origin,
        dataset=dataset,
        decoding=decoding,
        candidates=candidates,
        limits=limits,
        batches=batches,
        instructions=instructions,
    )


def build(
    params: dict,
    assets: Assets,
    output: str,
    origin: dict[str, Any],
    *,
    dataset: str = "collected",
    decoding: Decoding = GREEDY,
    candidates: int = 0,
    limits: SafetyLimits | None = None,
    batches: Sequence[int] = (),
    instructions: Sequence[str] = (),
) -> artefact.Artefact:
    """Writes as `write` does, from parameters in memory; `origin` names the run's directory and step."""
    folder = Path(output)
    if folder.exists() and not (folder / POLICY).exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists and is no policy artefact; choose another --output.", topic="output-exists"
        )
    made = checkpoint_policy.programs(assets, dataset, decoding, candidates, limits)
    flat = flattened(params)
    vectors = np.zeros((0, assets.interface.instruction_dim))
    if instructions:
        vectors = np.stack([text.embed(sentence, assets.text_encoder) for sentence in instructions])
    about = {
        "schema": SCHEMA,
        **artefact.describe(made.spec, made.statistics),
        "network": to_json(assets.interface),
        "batches": sorted(batches),
        "instructions": list(instructions),
        "provenance": origin
        | {
            "dataset": dataset,
            "data_fingerprint": assets.data_fingerprint,
            "data": assets.data,
            "config": assets.config,
            "commit": _commit(),
            "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        "qt_jax": qt_jax.__version__,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
    }
    with replacing(folder) as work:
        (work / "programs").mkdir()
        safetensors.numpy.save_file(flat, work / artefact.PARAMS)
        safetensors.numpy.save_file({"embeddings": vectors.astype(np.float32)}, work / INSTRUCTIONS)
        for batch in batches or (0,):
            for file, program in _programs(made, params, flat, batch).items():
                (work / file).write_bytes(program)
        seal(work, about)
        seal(work, about | {"agreement": _compare(artefact.load(str(work)), params, made)})
    return artefact.load(str(folder))


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`, which takes its place when the block has ended well.

    Raises:
        UserError: if the disk does not take it.

    """
    folder = folder.resolve()
    work, old = (folder.with_name(f"{folder.name}.{state}") for state in ("incomplete", "replaced"))
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        work.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}); make room, or choose another.", topic="storage"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _compare(written: artefact.Artefact, params: dict, made: checkpoint_policy.Programs) -> dict[str, Any]:
    """Raises a UserError if the artefact is not the checkpoint's policy."""
    rows = written.batches[0] if written.batches else 2
    dtype = written.about["provenance"]["config"]["model"]["dtype"]
    return agreement.compare(made.policy(params, rows), written.policy(rows), dtype)


def flattened(params: dict) -> dict[str, np.ndarray]:
    """Returns {path, joined by slashes: array}, as safetensors holds them."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {parameter_path(path): np.asarray(leaf) for path, leaf in leaves}


def unflattened(flat: dict[str, Any], like: Any) -> Any:
    """Returns a tree of `like`'s structure; undoes `flattened`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[parameter_path(path)], like)


def _programs(
    made: checkpoint_policy.Programs, like: dict, flat: dict[str, np.ndarray], batch: int
) -> dict[str, bytes]:
    """Exports {file: program}, functions of the flat parameters; batch 0: of any size.

    They are `encode` and `decode`; and `judge` of a policy that has it, of one row and any number of
    candidates.
    """
    spec, own = made.spec, made.spec.interface
    (rows,) = (batch,) if batch else export.symbolic_shape("rows")

    def struct(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), flat)
    images = {name: struct(np.uint8, *own.observation.image_size, 3) for name in own.observation.cameras}
    inputs = [images, struct(np.float32, own.observation.state_dim), struct(np.float32, own.instruction_dim)]
    if spec.timesteps:
        inputs.append(struct(np.int32))

    def of_flat(program: Callable) -> Any:
        return jax.jit(lambda flat, *rest: program(unflattened(flat, like), *rest))

    def windowed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.shape[0], spec.window, *x.shape[1:]), x.dtype)

    window = jax.tree.map(windowed, jax.eval_shape(of_flat(made.encode), params, *inputs))
    seen = [window, struct(jnp.bool_, spec.window), struct(jnp.int32, spec.window, own.decision.dims)]
    drawn = [struct(np.float32, spec.decoding.count, own.decision.dims)] if spec.decoding.draws else []
    takes = {"encode": (made.encode, batch, inputs), "decode": (made.decode, batch, seen + drawn)}
    if made.judge is not None:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), seen)
        (count,) = export.symbolic_shape("candidates")
        proposed = jax.ShapeDtypeStruct((1, count, own.decision.dims), jnp.int32)
        takes["judge"] = made.judge, 1, [*one, proposed]
    return {
        artefact.program_file(name, rows): bytes(
            export.export(of_flat(program), platforms=PLATFORMS)(params, *inputs).serialize()
        )
        for name, (program, rows, inputs) in takes.items()
    }


def _commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, if it is one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
