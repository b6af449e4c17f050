"""`export`: a checkpoint of config.workdir as a policy artefact.

The artefact is compared with the checkpoint before it is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from qt_jax.errors import UserError
from qt_jax.specs import DECODINGS, Decoding

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's own flags."""
    flags.DEFINE_string("output", "", "Folder of the artefact; default: config.workdir/policy.")
    flags.DEFINE_integer("step", 0, "Which of the kept checkpoints; 0: the latest.")
    flags.DEFINE_string(
        "dataset", "collected", "Whose robot acts, of the datasets that the policy was trained on."
    )
    flags.DEFINE_string(
        "decode",
        "greedy",
        f"How an action is decided: {DECODINGS}; of 'rank' 16 at temperature 1 by default.",
    )
    flags.DEFINE_integer(
        "candidates",
        0,
        "How many actions of somebody else the policy ranks at once, at most; 0: none.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "limits",
        "",
        "JSON file of safety limits, which go with the policy: bounds, workspace, velocity, fallbacks "
        "(docs/robot.md).",
    )
    flags.DEFINE_list("batches", [], "Batch sizes to compile for, such as 1,8,64; default: any size.")
    flags.DEFINE_string(
        "instructions",
        "",
        "File with a sentence a line; their embeddings go with the policy, for robots without an encoder.",
    )


def main(config: Any) -> None:
    """Writes the artefact, and prints how well it agrees with the checkpoint."""
    from qt_jax.export import agreement, artefact
    from qt_jax.safety import SafetyLimits

    written = artefact.write(
        config.workdir,
        FLAGS.output or str(Path(config.workdir, "policy")),
        step=FLAGS.step,
        dataset=FLAGS.dataset,
        decoding=Decoding.read(FLAGS.decode),
        candidates=FLAGS.candidates,
        limits=SafetyLimits.read(FLAGS.limits) if FLAGS.limits else None,
        batches=_batches(),
        instructions=_instructions(),
    )
    about = written.about
    size = sum(p.stat().st_size for p in written.path.rglob("*") if p.is_file()) / 2**20
    print(
        f"{written.path}: {size:.1f} MiB, step {about['provenance']['step']}, decodes {written.spec.decoding}"
    )
    if written.spec.limits is not None:
        print(f"safety limits of {FLAGS.limits}: {', '.join(written.spec.limits.dims) or 'fallbacks alone'}")
    print(agreement.summary(about["agreement"], "the checkpoint"))
    print(f"serve it: python -m qt_jax serve --artefact={written.path}")


def _batches() -> list[int]:
    if not all(size.isdecimal() and int(size) > 0 for size in FLAGS.batches):
        given = ",".join(FLAGS.batches)
        raise UserError(f"--batches={given}: give whole numbers of 1 or more, such as 1,8,64.")
    return [int(size) for size in FLAGS.batches]


def _instructions() -> list[str]:
    """Reads the sentences of --instructions; [] without it."""
    if not FLAGS.instructions:
        return []
    try:
        lines = Path(FLAGS.instructions).read_text().splitlines()
    except OSError as error:
        raise UserError(f"--instructions={FLAGS.instructions} cannot be read ({error.strerror}).") from error
    return [line.strip() for line in lines if line.strip()]
