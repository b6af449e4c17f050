"""`make plan-sizes`: which network size fits which TPU slice, from the real TPU compiler, without a TPU.

Each row compiles the whole train step of experiments/sizes.py for one slice, with 64 segments of 12 frames in
all; ten minutes a row. Memory is the compiler's, the compute time is modelled from published peaks; `plan`
says more of any one. Writes experiments/results/plan_sizes.json and .md.
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
from qt_jax.planning import plan
from qt_jax.planning import topology
size, name, fsdp = sys.argv[1:]
config = sizes.get_config(size)
config.mesh.fsdp = int(fsdp)
print(json.dumps(plan.figures(config, topology.tpu_devices(name))))
"""


def compiled(size: str, topology: str, fsdp: int) -> dict:
    """Computes `plan.figures` in a process of its own, with the seconds it took."""
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, size, topology, str(fsdp)], capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"{size} for {topology}: {result.stderr[-2000:]}")
    figures = json.loads(result.stdout.splitlines()[-1])
    shown = {
        name: figures[name]
        for name in ("parameters", "mesh", "batch", "memory", "device_memory", "compute_s")
    }
    return {"size": size, "topology": topology, **shown, "compile_s": time.perf_counter() - start}


def table(rows: list[dict]) -> str:
    head = "| size | parameters | slice | mesh | GiB a chip: state | activations | total (of) | fits "
    lines = [f"{head}| compute ms, modelled |\n", "|---" * 9 + "|\n"]
    for row in rows:
        gib = {name: size / 2**30 for name, size in row["memory"].items()}
        state = gib["parameters"] + gib["optimizer"] + gib["target network"]
        has = row["device_memory"] / 2**30
        fits = "yes" if gib["total"] <= has else "no"
        shape = " x ".join(f"{axis} {n}" for axis, n in row["mesh"].items() if n > 1)
        cells = (
            row["size"],
            f"{row['parameters'] / 1e6:,.0f}M",
            row["topology"],
            shape,
            f"{state:.2f}",
            f"{gib['temporaries (gradients, activations)']:.1f}",
            f"{gib['total']:.1f} ({has:.0f})",
            fits,
            f"{row['compute_s'] * 1e3:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def main() -> None:
    rows = []
    for row in ROWS:
        rows.append(compiled(*row))
        print(table(rows[-1:]).splitlines()[-1], f"compiled in {rows[-1]['compile_s']:.0f} s", flush=True)
        runs.write(RESULTS / "plan_sizes.json", rows=rows)
        (RESULTS / "plan_sizes.md").write_text(table(rows))


if __name__ == "__main__":
    main()
