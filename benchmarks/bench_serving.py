"""`make bench-serving`: what a control step costs, from the compiled program to the socket.

For the laptop- and the paper-size network with random parameters, one robot, one 300x300 image, batch 1, in
turns in one run; p50 and p99:
- raw: the compiled step of the runtime, its arguments ready, each time another image;
- runtime: `Sessions.act` from numpy to numpy;
- websocket: the real server in a process of its own, `qt_jax.serving.client` in another, the reply's total
  included;
- echo: the same message to a process of the websockets library that answers at once with nothing: what the
  transport alone takes;
- uncached: the whole window encoded at each step, as a policy without the cache would;
- values: the value of 10 instructions;
- rank: 16 candidates of somebody else, by `Sessions` and over the websocket;
- onnx: policy/onnx_policy.py in a process of its own, numpy and onnxruntime; and the rank of 16 there;
- peer: q-transformer 0.5.0 from its own venv, `get_optimal_actions` at the sizes of
  benchmarks/peer_q_transformer.py.
Writes experiments/results/bench_serving.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs
from qt_jax.training.assets import Assets, DatasetAssets, plain_config

RESULT = Path("experiments/results/bench_serving.json")
ROUNDS = {"laptop": 15, "paper": 4}
STEPS = {"laptop": 30, "paper": 6}
CANDIDATES, PIXELS = 16, 300
PEER_SIZES = {"laptop": "laptop", "paper": "rt1"}
PEER_PYTHON, ONNX_PYTHON = ".peer/bin/python", ".onnx/bin/python"


def export_untrained(
    size: str,
    folder: str,
    pixels: int = PIXELS,
    candidates: int = CANDIDATES,
    batches: tuple[int, ...] = (),
    settings: dict[str, Any] | None = None,
) -> None:
    """Writes the artefact of a network of that size: 8 dims of 256 bins, one square camera, no state.

    `settings` replace some of `config.model`.
    """
    import jax

    from qt_jax import agents
    from qt_jax.export import artefact
    from qt_jax.models import q_transformer
    from qt_jax.specs import ActionSpec, Interface, ObservationSpec
    from qt_jax.statistics import Statistics
    from qt_jax.text import ENCODER
    from qt_jax.training import setup
    from qt_jax.training.config import default_config

    config = default_config("q_transformer")
    config.model = getattr(q_transformer, size)()
    config.model.dtype = "float32"  # a CPU computes in nothing less
    config.model.update(settings or {})
    config = setup.with_value_range(config, 1 / 3)
    names = ("terminate", "x", "y", "z", "roll", "pitch", "yaw", "gripper")
    action = ActionSpec(names, (-1.0,) * 8, (1.0,) * 8, (256,) * 8)
    interface = Interface(action, ObservationSpec(("front",), (pixels, pixels), 0, ""), 512)
    none, unit = (
        Statistics((), (), (), (), (), ()),
        Statistics(*[(x,) * 8 for x in (0.0, 1.0, -1.0, 1.0, -1.0, 1.0)]),
    )
    dataset = DatasetAssets(interface, none, unit, 1 / 3)
    plain = plain_config(config)
    assets = Assets(interface, {"collected": dataset}, ENCODER, plain, "", {})
    params = jax.jit(agents.make_ensemble(config, interface).init)(jax.random.key(0))
    origin = {"workdir": "", "step": 0}
    artefact.build(params, assets, folder, origin, candidates=candidates, batches=batches)


def measure(size: str, folder: str) -> dict[str, Any]:
    """Measures, in turns, all that runs in this process and in the server's."""
    from qt_jax.policy import artefact
    from qt_jax.policy.requests import Request
    from qt_jax.policy.runtime import extras, undecided
    from qt_jax.policy.sessions import Sessions
    from qt_jax.serving.client import Client

    opened = artefact.load(folder)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (300, 300, 3), np.uint8) for _ in range(8)]
    embedding = rng.normal(scale=0.05, size=512).astype(np.float32)
    no_state = np.zeros(0, np.float32)
    sessions = Sessions(opened.policy(11, (1, 10)), lambda sentence: embedding)
    policy = sessions.policy
    policy.warm_up()
    spec = opened.spec
    raw_inputs = no_state[None], embedding[None], np.zeros(1, bool), undecided(spec, 1), extras(spec, 1)

    def request(n, instruction):
        return Request("robot", {"front": images[n % 8]}, no_state, instruction)

    proposed = rng.uniform(-1, 1, (CANDIDATES, 1, 8))

    def to_rank(n):
        return dataclasses.replace(request(n, embedding), candidates=proposed)

    # Another instruction at each step: the whole window is encoded again.
    changing = [embedding, embedding + 1e-3]

    command = [
        sys.executable,
        "-m",
        "qt_jax",
        "serve",
        f"--artefact={folder}",
        "--port=0",
        "--max_sessions=1",
    ]
    with (
        started(*command) as server,
        started(sys.executable, "-c", "from benchmarks import bench_serving as b; b.echo()") as echoing,
    ):
        client, echo = Client(url_of(server)), Client(url_of(echoing))

        def message(n):
            return {"observation/front": images[n % 8], "instruction_embedding": embedding}

        ways: dict[str, Callable[[int], Any]] = {
            "raw": lambda n: policy._run(np.zeros(1), {"front": images[n % 8][None]}, *raw_inputs),
            "runtime": lambda n: sessions.act([request(n, embedding)]),
            "websocket": lambda n: client.infer(message(n)),
            "echo": lambda n: echo.infer(message(n)),
            "uncached": lambda n: sessions.act([request(n, changing[n % 2])]),
            "rank of 16": lambda n: sessions.act_each([to_rank(n)]),
            "websocket, rank of 16": lambda n: client.rank(message(n), proposed),
            "values of 10": lambda n: sessions.values("robot", ["a sentence"] * 10),
        }
        times = in_turns(ways, size)
        server_side = [client.infer(message(n))["server_timing"]["infer_ms"] for n in range(10)]
        client.disconnect()
    overhead = statistics.median(w - r for w, r in zip(times["websocket"], times["raw"]))
    result = {name: percentiles(values) for name, values in times.items()}
    return result | {
        "server's own infer_ms": {"p50_ms": statistics.median(server_side)},
        "websocket over raw, p50_ms": overhead,
        "cached share of uncached": result["runtime"]["p50_ms"] / result["uncached"]["p50_ms"],
        "rank of 16 over an action": result["rank of 16"]["p50_ms"] / result["runtime"]["p50_ms"],
    }


def echo() -> None:
    """Runs a bare server of the websockets library until it is ended."""
    import asyncio

    from websockets.asyncio.server import serve

    from qt_jax.serving import wire

    async def answer(connection: Any) -> None:
        await connection.send(wire.pack({}))
        async for _ in connection:
            await connection.send(wire.pack({}))

    async def run() -> None:
        async with serve(answer, "127.0.0.1", 0, compression=None) as server:
            print(f"serving ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
            await asyncio.Future()

    asyncio.run(run())


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen]:
    """Starts a process, which ends with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()


def url_of(server: subprocess.Popen) -> str:
    return next(line for line in server.stdout if line.startswith("serving")).split()[1]


def measure_onnx(size: str, folder: str) -> dict[str, dict[str, float]]:
    """Measures one robot's control step on onnxruntime, and a rank; runs in the venv of the extra `onnx`."""
    from qt_jax.policy import onnx_policy

    policy, rng = onnx_policy.load(folder), np.random.default_rng(0)
    images, embedding = rng.integers(0, 256, (8, 1, 300, 300, 3), np.uint8), np.zeros((1, 512), np.float32)

    proposed = rng.uniform(-1, 1, (CANDIDATES, 1, 8))

    def seen(n):
        image = {"front": images[n % 8]}
        return np.zeros(1, int), image, np.zeros((1, 0), np.float32), embedding, np.zeros(1, bool)

    ways: dict[str, Callable[[int], Any]] = {
        "onnx": lambda n: policy.act(*seen(n)),
        "onnx, rank of 16": lambda n: policy.rank(*seen(n), proposed),
    }
    return {name: percentiles(values) for name, values in in_turns(ways, size).items()}


def in_turns(ways: dict[str, Callable[[int], Any]], size: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        for number in range(8):
            way(number)
    for _ in range(ROUNDS[size]):
        for name, way in ways.items():
            for number in range(STEPS[size]):
                start = time.perf_counter()
                way(number)
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def percentiles(values: list[float]) -> dict[str, float]:
    return {
        "p50_ms": float(np.percentile(values, 50)),
        "p99_ms": float(np.percentile(values, 99)),
        "calls": len(values),
    }


def main() -> None:
    commit, results = runs.code_commit("benchmarks"), {}
    for size in ROUNDS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = f"{scratch}/policy"
            child(sys.executable, "-c", call_of("export_untrained", size, folder))
            child(ONNX_PYTHON, "-m", "qt_jax", "onnx", f"--artefact={folder}")
            results[size] = json.loads(child(sys.executable, "-c", call_of("measure", size, folder)))
            results[size] |= json.loads(child(ONNX_PYTHON, "-c", call_of("measure_onnx", size, folder)))
            results[size]["peer"] = json.loads(
                child(PEER_PYTHON, "benchmarks/peer_q_transformer.py", "act", PEER_SIZES[size])
            )
        print(f"{size}: {json.dumps(results[size], indent=1)}", flush=True)
        runs.write(RESULT, commit=commit, **results)


def call_of(function: str, *arguments: Any, module: str = "bench_serving") -> str:
    call = f"{module}.{function}{arguments!r}"
    return f"import json; from benchmarks import {module}; print(json.dumps({call}))"


def child(*command: str) -> str:
    """Runs a command and returns the last line that it prints."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
