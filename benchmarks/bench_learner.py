"""`make bench-learner`: speed, peak memory and share of the matmul peak of the learner, and of the PyTorch
peer beside it, in one run.

Work is counted as in the design: a step is 4F (one online pass forward and backward, one target pass), F =
FLOPs of one forward pass from the program before optimisation; the peak is a jitted float32 2048^3 matmul.
Transitions are trainable steps. Medians. The peer's FLOPs are torch's own count. Both sides in processes of
their own, one after the other. Writes experiments/results/bench_learner.json.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from benchmarks import runs
from benchmarks.learner_step import PEER, SHIPPED

RESULTS = Path("experiments/results/bench_learner.json")
PEER_PYTHON = ".peer/bin/python"


def child(*command: str) -> dict[str, float]:
    """The JSON on the last line that `command` prints."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def factors(ours: dict[str, float], peers: dict[str, float]) -> dict[str, float]:
    """transitions/s of ours over the peer's as a product, each factor the gain of one more change to the
    peer, in this order.

    The work of a transition is encoder * frame passes + rest; its time is that over the achieved FLOP/s.
    """

    def work(side):
        return side["step_gflop"] / side["transitions_per_step"]

    def encoders(size, passes):
        return size["image_encoder_gflop_a_frame"] * passes["frame_passes_a_transition"]

    rest = work(peers) - encoders(peers, peers)
    stages = [work(peers), encoders(ours, peers) + rest, encoders(ours, ours) + rest, work(ours)]
    names = ("another image encoder", "each frame encoded once", "a smaller rest of the network")
    gains = {name: before / after for name, before, after in zip(names, stages, stages[1:])}
    speedup = ours["transitions_per_s"] / peers["transitions_per_s"]
    return {"speedup": speedup, **gains, "better use of the cores": speedup / math.prod(gains.values())}


def main() -> None:
    commit = runs.code_commit("benchmarks")
    sizes = (*SHIPPED, *PEER, *(f"blocks_{name}" for name in PEER))
    ours = {name: child(sys.executable, "-m", "benchmarks.learner_step", name) for name in sizes}
    peers = {name: child(PEER_PYTHON, "benchmarks/peer_q_transformer.py", "learn", name) for name in PEER}
    compared = {name: factors(ours[name], peers[name]) for name in PEER}
    runs.write(RESULTS, commit=commit, qt_jax=ours, q_transformer_pytorch=peers, factors=compared)
    print(table(ours, peers, compared))


def table(ours: dict, peers: dict, compared: dict) -> str:
    rows = [("size", "", "parameters", "steps/s", "transitions/s", "peak memory GiB", "of matmul peak")]

    def show(value, form):
        return "" if value is None else format(value, form)

    for name, side, values in [(n, "qt_jax", v) for n, v in ours.items()] + [
        (n, "PyTorch peer", v) for n, v in peers.items()
    ]:
        get = values.get
        rows.append((
            name, side, show(get("parameters"), ","), show(get("steps_per_s"), ".3g"), show(get("transitions_per_s"), ".3g"),
            show(get("peak_memory_gib"), ".2f"), show(get("share_of_matmul_peak"), ".0%"),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for name, parts in compared.items():
        parts = dict(parts)
        lines.append(
            f"{name}: {parts.pop('speedup'):.3g}x the peer = "
            + " x ".join(f"{v:.2g} ({k})" for k, v in parts.items())
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
