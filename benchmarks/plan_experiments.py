"""`make plan-experiments`: the smallest TPU slice and number of GPUs that each experiment file fits, by `plan --fits`.

Compiled, nothing was run; for GPUs on CPUs, which is an estimate. About ten minutes for each slice tried of a paper-size network. Writes
experiments/results/plan_experiments.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import runs

EXPERIMENTS = ("quickstart", "metaworld_mt10", "metaworld_mt50", "bridge", "fractal", "oxe_mix")
KINDS = ("v5e", "v5p", "h100")
RESULT = Path("experiments/results/plan_experiments.md")


def main() -> None:
    commit = runs.code_commit("experiments")
    lines = [
        f"`make plan-experiments`, commit {commit}, {runs.MACHINE}: compiled, not run.",
        "",
        "| experiment | tried, from the smallest |",
    ]
    lines.append("|---|---|")
    for name in EXPERIMENTS:
        for kind in KINDS:
            command = [sys.executable, "-m", "qt_jax", "plan", f"--config=experiments/{name}.py", f"--fits={kind}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} on {kind}: {done.stderr[-2000:]}")
            lines.append(f"| {name} | {'<br>'.join(done.stdout.splitlines())} |")
            print(lines[-1], flush=True)
            RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
