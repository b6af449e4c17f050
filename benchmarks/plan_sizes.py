"""`make plan-sizes`: which network size fits which TPU slice, from the real TPU compiler, without a TPU.

Each row compiles the whole train step of experiments/sizes.py for one slice. Memory and bytes sent are the compiler's, the step time is
modelled from published peaks (see `plan`). Writes experiments/results/plan_sizes.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import runs

RESULTS = Path("experiments/results")
ROWS = (  # size, topology, fsdp (the rest is data)
    ("rt1", "v5e:2x2", 1),
    ("rt1", "v5e:4x4", 1),
    ("300m", "v5e:4x4", 1),
    ("300m", "v5e:4x4", 16),
    ("3b", "v5e:8x8", 64),
    ("3b", "v5p:2x2x4", 16),
)
COMPILE = """
import json, sys
from experiments import sizes
from qt_jax.cli import plan
from qt_jax.training import topology
size, name, fsdp = sys.argv[1:]
config = sizes.get_config(size)
config.mesh.fsdp = int(fsdp)
print(json.dumps(plan.figures(config, topology.tpu_devices(name))))
"""


def compiled(size: str, topology: str, fsdp: int) -> dict:
    """`plan.figures` from a process of its own, with the seconds it took."""
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", COMPILE, size, topology, str(fsdp)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{size} for {topology}: {result.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    return {"size": size, "topology": topology, **json.loads(result.stdout.splitlines()[-1]), "compile_s": seconds}


def table(rows: list[dict]) -> str:
    head = "| size | parameters | slice | mesh | GiB a chip (of) | fits | sent a step, GiB | step ms, modelled |\n" + "|---" * 8 + "|\n"
    lines = []
    for row in rows:
        held, has = row["memory"]["total"] / 2**30, row["device_memory"] / 2**30
        slowest = max(row["compute_s"], row["memory_s"])
        shape = " x ".join(f"{axis} {n}" for axis, n in row["mesh"].items() if n > 1)
        lines.append(
            f"| {row['size']} | {row['parameters'] / 1e6:,.0f}M | {row['topology']} | {shape} | {held:.1f} ({has:.0f}) | "
            f"{'yes' if held <= has else 'no'} | {sum(row['sent'].values()) / 2**30:.2f} | "
            f"{max(slowest, row['wire_s']) * 1e3:.0f} to {(slowest + row['wire_s']) * 1e3:.0f} |\n"
        )
    return head + "".join(lines)


def main() -> None:
    rows = []
    for row in ROWS:
        rows.append(compiled(*row))
        print(table(rows[-1:]).splitlines()[-1], f"compiled in {rows[-1]['compile_s']:.0f} s", flush=True)
        runs.write(RESULTS / "plan_sizes.json", rows=rows)
        (RESULTS / "plan_sizes.md").write_text(table(rows))


if __name__ == "__main__":
    main()
