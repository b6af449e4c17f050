"""`make bench-learner`: speed and memory of the learner and of the PyTorch peer.

Work is counted as in docs/design.md: a step is 4F (one online pass forward and backward, one target pass), F
= FLOPs of one forward pass from the program before optimisation; the peak is a jitted float32 2048^3 matmul.
Transitions are trainable steps. Medians. The peer's FLOPs are torch's own count. Both sides run in processes
of their own, one after the other. Writes experiments/results/bench_learner.json.
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
    """Runs `command` and reads the JSON on the last line that it prints."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def factors(ours: dict[str, float], peers: dict[str, float]) -> dict[str, float]:
    """Splits our transitions/s over the peer's into factors, whose product it is.

    Each factor is the gain of one more change to the peer, in this order. The work of a transition is encoder
    * frame passes + rest; its time is that over the achieved FLOP/s.
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
    forms = {
        "parameters": ",",
        "steps_per_s": ".3g",
        "transitions_per_s": ".3g",
        "peak_memory_gib": ".2f",
        "share_of_matmul_peak": ".0%",
    }
    for side, sizes in (("qt_jax", ours), ("PyTorch peer", peers)):
        for name, values in sizes.items():
            cells = (format(values[key], form) if key in values else "" for key, form in forms.items())
            rows.append((name, side, *cells))

    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for name, parts in compared.items():
        gains = " x ".join(f"{gain:.2g} ({part})" for part, gain in parts.items() if part != "speedup")
        lines.append(f"{name}: {parts['speedup']:.3g}x the peer = {gains}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
