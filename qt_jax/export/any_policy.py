"""A policy to act with, of a run, an artefact or ONNX programs.

Each kind imports what it needs when it is loaded: a robot has none of what training needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qt_jax import text
from qt_jax.errors import UserError
from qt_jax.policy.loaded import LoadedPolicy
from qt_jax.policy.observations import Keys
from qt_jax.policy.sessions import Sessions

if TYPE_CHECKING:
    from qt_jax.policy.runtime import Runtime


def load(
    path: str | Path,
    step: int = 0,
    dataset: str = "",
    decode: str = "",
    candidates: int = 0,
    limits: str | Path = "",
    robots: int = 1,
    keys: str | Path = "",
    threads: int | None = None,
) -> LoadedPolicy:
    """Loads and compiles a policy: `qt_jax.load_policy`, which says what each argument is."""
    path = Path(path)
    if (path / "checkpoints").is_dir():
        policy = _of_run(path, step, dataset, decode, candidates, limits, robots + 1)
        embeddings: dict[str, Any] = {}
    else:
        of_run = {"step": step, "dataset": dataset, "decode": decode, "candidates": candidates}
        of_run["limits"] = limits
        for name, given in of_run.items():
            if given:
                raise UserError(
                    f"{name}={given!r} is of a run; {path} is none: it has no folder checkpoints. Leave it "
                    f"out, or export the run with --{name}."
                )
        policy, embeddings = _of_artefact(path, robots + 1, threads)
    policy.warm_up()

    observation = policy.spec.interface.observation
    names = Keys.read(str(keys), observation) if keys else Keys.default(observation)
    sessions = Sessions(policy, text.embedder(embeddings, policy.spec.text_encoder), reserved=1)
    return LoadedPolicy(sessions, names)


def _of_run(
    path: Path, step: int, dataset: str, decode: str, candidates: int, limits: str | Path, capacity: int
) -> Runtime:
    try:
        from qt_jax.export import checkpoint_policy
        from qt_jax.training import checkpoints
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is a run, which needs the package {error.name}: pip install 'qt_jax[train]', or load "
            "the artefact that `python -m qt_jax export` makes of it.",
            topic="missing-package",
        ) from error
    from qt_jax.safety import SafetyLimits
    from qt_jax.specs import GREEDY, Decoding

    decoding = Decoding.read(decode) if decode else GREEDY
    safety = SafetyLimits.read(limits) if limits else None
    params, assets, _ = checkpoints.load_params(str(path), step=step)
    if not dataset and len(assets.datasets) > 1:
        raise UserError(
            f"{path} was trained on {sorted(assets.datasets)}; say whose robot acts: dataset=NAME."
        )
    dataset = dataset or next(iter(assets.datasets))
    return checkpoint_policy.build(params, assets, capacity, dataset, decoding, candidates, safety)


def _of_artefact(path: Path, capacity: int, threads: int | None) -> tuple[Runtime, dict[str, Any]]:
    """Loads the policy, and the embeddings that were exported with it."""
    onnx = path if path.name == "onnx" else path.parent if path.suffix == ".onnx" else None
    folder = path if onnx is None else onnx.parent
    if not (folder / "policy.json").is_file():
        raise UserError(
            f"{path} holds no policy; give the directory of a run (config.workdir), the folder that "
            "`python -m qt_jax export` wrote, or its folder onnx."
        )
    if onnx is not None:
        from qt_jax.policy import onnx_policy
        from qt_jax.policy.folder import Folder

        return onnx_policy.load(str(folder), capacity, threads), Folder.open(str(folder)).embeddings()
    if threads is not None:
        raise UserError(f"threads={threads} is of ONNX programs; give {path / 'onnx'}, or leave it out.")
    from qt_jax.policy import artefact

    opened = artefact.load(str(folder))
    return opened.policy(capacity, opened.batches or (1,)), opened.embeddings()
