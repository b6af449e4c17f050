"""`make bench-load`: many robots at a fixed rate against one server: latency, refusals, late replies, memory.

The server is the real one, in a process of its own, of a small untrained network with one 64x64 image, so
that the server and not the network is measured. The robots are in this process, each with a connection of its
own, and are spread evenly over the period. A robot sends an observation at each tick, one at a time: a tick
at which the last reply has not come is left out and counted as missed. Latency is from sending an observation
to having its reply; a reply is late if it takes longer than a period. Memory is the server's resident set,
read each second: "begin" is the mean of its first tenth, "end" that of its last tenth, and the growth is the
slope of a straight line through all but the first tenth.
Writes experiments/results/bench_load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import bench_serving, runs
from qt_jax.serving import wire

RESULT = Path("experiments/results/bench_load.json")
PIXELS = 64
NETWORK = {
    "patch_stages": ((8, 16, 1),),
    "image_size": 32,
    "image_tokens": 2,
    "layers": 1,
    "width": 32,
    "heads": 2,
}
BATCHES = 1, 4, 16, 64


class Robots:
    """What many robots see of a server, from `begin` on."""

    def __init__(self, hz: float):
        self.period_s = 1 / hz
        self.begin = time.perf_counter()
        self.latency_ms: list[float] = []
        self.sent = self.missed = 0
        self.refused: collections.Counter[str] = collections.Counter()

    async def run(self, connection: ClientConnection, number: int, phase: float, seconds: float) -> None:
        """Sends one robot's observations until the time is over; `phase` is the first tick, in periods."""
        rng = np.random.default_rng(number)
        images = rng.integers(0, 256, (8, PIXELS, PIXELS, 3), np.uint8)
        embedding = rng.normal(scale=0.05, size=512).astype(np.float32)
        messages = [
            wire.pack({"observation/front": image, "instruction_embedding": embedding}) for image in images
        ]
        tick = 0
        while (due := self.begin + (tick + phase) * self.period_s) < self.begin + seconds:
            await asyncio.sleep(due - time.perf_counter())
            self.sent += 1
            start = time.perf_counter()
            await connection.send(messages[tick % len(messages)])
            reply = await connection.recv()
            now = time.perf_counter()
            if isinstance(reply, str):
                self.refused[json.loads(reply)["error"]] += 1
            else:
                self.latency_ms.append(1000 * (now - start))
            late = max(0, int((now - due) / self.period_s))
            self.missed += late
            tick += 1 + late

    def report(self, seconds: float) -> dict[str, Any]:
        latency = np.asarray(self.latency_ms)
        shares = {f"p{share}": float(np.percentile(latency, share)) for share in (50, 95, 99)}
        return {
            "sent": self.sent,
            "decisions_a_second": len(latency) / seconds,
            "latency_ms": shares | {"max": float(latency.max())},
            "late": int((latency > 1000 * self.period_s).sum()),
            "missed": self.missed,
            "refused": dict(self.refused),
        }


async def drive(url: str, pid: int, sessions: int, hz: float, seconds: float) -> dict[str, Any]:
    """Connects the robots and drives them all; returns what they saw and the server's memory."""
    memory: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            memory.append((time.perf_counter(), resident_mib(pid)))
            await asyncio.sleep(1)

    async with contextlib.AsyncExitStack() as stack:
        connections = []
        for _ in range(sessions):
            connections.append(await stack.enter_async_context(connect(url, compression=None)))
            await connections[-1].recv()  # the metadata
        warm = Robots(hz)
        await asyncio.gather(*(warm.run(c, n, n / sessions, 2.0) for n, c in enumerate(connections)))

        robots, watching = Robots(hz), asyncio.create_task(watch())
        await asyncio.gather(*(robots.run(c, n, n / sessions, seconds) for n, c in enumerate(connections)))
        watching.cancel()
    return robots.report(seconds) | {"memory": growth(memory)}


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(memory: list[tuple[float, float]]) -> dict[str, float]:
    """Returns what (second, MiB) say of the memory at the beginning, at the end, and of a minute."""
    times, mib = np.asarray(memory).T
    tenth = max(1, len(mib) // 10)
    slope = np.polyfit(times[tenth:], mib[tenth:], 1)[0] if len(mib) > tenth + 1 else 0.0
    return {
        "begin_mib": float(mib[:tenth].mean()),
        "end_mib": float(mib[-tenth:].mean()),
        "growth_mib_a_minute": 60 * float(slope),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=int, default=64, help="robots")
    parser.add_argument("--hz", type=float, default=30.0, help="observations a second of each")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long they are driven")
    asked = parser.parse_args()
    if min(asked.sessions, asked.hz, asked.seconds) <= 0:
        sys.exit(f"{vars(asked)}: give numbers above 0")
    commit = runs.code_commit("benchmarks")

    with tempfile.TemporaryDirectory() as scratch:
        folder = f"{scratch}/policy"
        export = bench_serving.call_of("export_untrained", "laptop", folder, PIXELS, 0, BATCHES, NETWORK)
        bench_serving.child(sys.executable, "-c", export)
        command = ["-m", "qt_jax", "serve", f"--artefact={folder}", "--port=0"]
        with bench_serving.started(sys.executable, *command, f"--max_sessions={asked.sessions}") as server:
            url = bench_serving.url_of(server)
            found = asyncio.run(drive(url, server.pid, **vars(asked)))
    print(json.dumps(found, indent=1))
    runs.write(RESULT, commit=commit, load=os.getloadavg()[1], **vars(asked), **found)


if __name__ == "__main__":
    main()
