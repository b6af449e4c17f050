"""`make plan-experiments`: the smallest TPU slice and number of GPUs that each experiment file fits.

By `plan --fits`: compiled, nothing was run; for GPUs by the TPU compiler, an estimate. About ten minutes for
each slice that is tried of a paper-size network. Started again it goes on. Writes
experiments/results/plan_experiments.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import runs

EXPERIMENTS = ("quickstart", "metaworld_mt10", "metaworld_mt50", "fractal", "bridge", "oxe_mix")
KINDS = ("v5e", "h100")
RESULT = Path("experiments/results/plan_experiments.json")


def table(rows: list[dict]) -> str:
    lines = [
        "`make plan-experiments`: compiled, not run.",
        "",
        "| experiment | tried, from the smallest | commit |",
        "|---|---|---|",
    ]
    lines += [f"| {row['experiment']} | {'<br>'.join(row['tried'])} | {row['commit']} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    commit = runs.code_commit("experiments")
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    known = {(row["experiment"], row["kind"]) for row in rows}
    for kind in KINDS:
        for name in EXPERIMENTS:
            if (name, kind) in known:
                continue
            command = [
                sys.executable,
                "-m",
                "qt_jax",
                "plan",
                f"--config=experiments/{name}.py",
                f"--fits={kind}",
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} on {kind}: {done.stderr[-2000:]}")
            rows.append(
                {"experiment": name, "kind": kind, "tried": done.stdout.splitlines(), "commit": commit}
            )
            print(json.dumps(rows[-1]), flush=True)
            runs.write(RESULT, rows=rows)
            RESULT.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
