"""`make rooflines`, also of `make plan-sizes`: what binds the train step with each image encoder.

RT-1's size (experiments/sizes.py) with another encoder, by `plan --roofline`: traced, not compiled and not
run; 15 seconds of processor time a row. Writes experiments/results/rooflines.json and .md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks import runs
from experiments import sizes
from qt_jax.planning import roofline
from qt_jax.planning.traffic import Work
from qt_jax.training import chips

RESULTS = Path("experiments/results")
KEPT = {"model.encoder_remat": "none", "model.remat": "none"}
FROZEN = {"model.encoder": "efficientnet_lite0", "model.frozen_encoder": True} | KEPT
ROWS: dict[str, dict[str, Any]] = {
    "patch": {"model.encoder": "patch"} | KEPT,
    "efficientnet_b3": KEPT,
    "efficientnet_b3, as rematerialised in RT-1's config": {},
    "efficientnet_lite0": {"model.encoder": "efficientnet_lite0"} | KEPT,
    "efficientnet_lite0, as rematerialised in RT-1's config": {"model.encoder": "efficientnet_lite0"},
    "efficientnet_lite2": {"model.encoder": "efficientnet_lite2"} | KEPT,
    "efficientnet_lite0, frozen": FROZEN,
    "efficientnet_lite0, frozen, cached features": FROZEN | {"data.cache_features": True},
}
NONE = dataclasses.asdict(roofline.Part(Work(), 0.0))
SHOWN = ("NVIDIA H200", "NVIDIA A100", "TPU v5 lite", "TPU v6 lite")


def row(name: str) -> dict[str, Any]:
    """Counts the step with these settings, and its bounds on each chip."""
    config = sizes.get_config("rt1")
    config.update_from_flattened_dict(ROWS[name])
    parts = roofline.of_config(config)
    return {
        "encoder": name,
        **{part: dataclasses.asdict(counted) for part, counted in parts.items()},
        "bounds": {chip: _bounds(parts["step"].on(figures)) for chip, figures in chips.CHIPS.items()},
    }


def _bounds(of: roofline.Bounds) -> dict[str, Any]:
    return dataclasses.asdict(of) | {"least_s": of.least_s, "by": of.by}


def table(rows: list[dict[str, Any]]) -> str:
    heads = (
        "image encoder",
        "TFLOP a step (encoder's)",
        "with recomputation",
        "GB moved (encoder's)",
        *SHOWN,
    )
    lines = [f"| {' | '.join(heads)} |\n", "|---" * len(heads) + "|\n"]
    for values in rows:
        step, eyes = (values.get(part, NONE) for part in ("step", "image encoders"))
        on_chips = (values["bounds"][chip] for chip in SHOWN)
        cells = (
            values["encoder"],
            f"{step['needed'] / 1e12:.1f} ({eyes['needed'] / 1e12:.1f})",
            f"{step['work']['flops'] / 1e12:.1f}",
            f"{step['work']['bytes'] / 1e9:.0f} ({eyes['work']['bytes'] / 1e9:.0f})",
            *(f"{of['least_s'] * 1e3:.0f} ms, {of['by']}, {of['mfu']:.0%}" for of in on_chips),
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def main() -> None:
    rows = []
    for name in ROWS:
        rows.append(row(name))
        print(table(rows).splitlines()[-1], flush=True)
        runs.write(RESULTS / "rooflines.json", rows=rows)
        (RESULTS / "rooflines.md").write_text(table(rows))


if __name__ == "__main__":
    main()
