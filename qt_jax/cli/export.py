"""`export`: a checkpoint of config.workdir as a policy artefact, compared with the checkpoint before it is
kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags


def define_flags() -> None:
    flags.DEFINE_string("output", "", "Folder of the artefact; default: config.workdir/policy.")
    flags.DEFINE_integer("step", 0, "Which of the kept checkpoints; 0: the latest.")
    flags.DEFINE_string(
        "dataset", "collected", "Whose robot acts, of the datasets that the policy was trained on."
    )
    flags.DEFINE_integer("beam", 1, "Prefixes kept from action dim to action dim; 1: greedy.", lower_bound=1)
    flags.DEFINE_list("batches", [], "Batch sizes to compile for, such as 1,8,64; default: any size.")
    flags.DEFINE_string(
        "instructions",
        "",
        "File with a sentence a line; their embeddings go with the policy, for robots without an encoder.",
    )


def main(config: Any) -> None:
    from qt_jax.errors import UserError
    from qt_jax.export import agreement, artefact

    values = flags.FLAGS
    try:
        batches = [int(b) for b in values.batches]
    except ValueError:
        batches = [0]
    if any(b < 1 for b in batches):
        raise UserError(
            f"--batches={','.join(values.batches)}: give whole numbers of 1 or more, such as 1,8,64."
        )
    instructions = []
    if values.instructions:
        try:
            instructions = [
                line.strip() for line in Path(values.instructions).read_text().splitlines() if line.strip()
            ]
        except OSError as error:
            raise UserError(
                f"--instructions={values.instructions} cannot be read ({error.strerror})."
            ) from error
    written = artefact.write(
        config.workdir,
        values.output or str(Path(config.workdir, "policy")),
        step=values.step,
        dataset=values.dataset,
        beam=values.beam,
        batches=batches,
        instructions=instructions,
    )
    size = sum(p.stat().st_size for p in written.path.rglob("*") if p.is_file())
    print(
        f"{written.path}: {size / 2**20:.1f} MiB, step {written.about['provenance']['step']}, {written.about['decoder']}\n"
        f"{agreement.summary(written.about['agreement'], 'the checkpoint')}\n"
        f"serve it: python -m qt_jax serve --artefact={written.path}"
    )
