"""`make pictures`: the pictures of README and docs/robot.md, of the runs of the quickstart and of the tour.

    python -m benchmarks.pictures videos   # docs/images/quickstart.jpg, of two of the run's videos
    python -m benchmarks.pictures page     # docs/images/serve_page.png, with Chromium, while the policy acts
    python -m benchmarks.pictures tour     # docs/images/tour_report.png, with Chromium, of the tour's report

Without a name, all. `make metaworld-report` makes the others.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

QT = sys.executable, "-m", "qt_jax"
CONFIG = "experiments/quickstart.py"
RUN, REPORT = Path("runs/quickstart/q_transformer"), Path("runs/tour/q_transformer/report.html")
IMAGES = Path("docs/images")
TASKS = "faucet-open", "faucet-close"
"""From above: both have one scene and one start."""
FRAMES = 6
"""Of a video, in a row."""
STEP = 25
"""Decisions of an episode before the page is drawn."""
WAIT_S = 120
CHROMIUM = "chromium", "chromium-browser", "google-chrome"


def videos() -> None:
    """Draws a row of frames of each task's video, from its first frame to its last."""
    rows = []
    for task in TASKS:
        frames = iio.imread(RUN / "videos" / f"{task}_0.mp4")
        chosen = np.linspace(0, len(frames) - 1, FRAMES).astype(int)
        rows.append(np.hstack(frames[chosen]))
    Image.fromarray(np.vstack(rows)).save(IMAGES / "quickstart.jpg", quality=88)


def page() -> None:
    """Serves the policy, lets it act in the simulator, and draws the server's page meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        export = [f"--config={CONFIG}", f"--config.workdir={RUN}", f"--output={folder}/quickstart"]
        subprocess.run([*QT, "export", *export], check=True)
        with _running("serve", f"--artefact={folder}/quickstart", "--port=0") as server:
            said = (re.search(r"serving ws://(\S+)", line) for line in server.stdout)
            url = next(found[1] for found in said if found)
            robot = [f"--policy=ws://{url}", f"--config={CONFIG}", f"--config.workdir={folder}/run"]
            robot += [f"--config.env.tasks=('{TASKS[0]}',)", "--config.evaluate.num_envs=1"]
            with _running("evaluate", *robot):
                _until_it_acts(f"http://{url}/state")
                _draw(f"http://{url}/", "serve_page.png", 830)


def tour() -> None:
    """Draws the top of the report of examples/tour.py."""
    _draw(REPORT.resolve().as_uri(), "tour_report.png", 1140)


def _draw(url: str, name: str, height: int) -> None:
    """Writes a picture of a page, 1180 pixels wide."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        raise SystemExit("There is no Chromium here: apt-get install chromium.")
    drawn = [f"--screenshot={IMAGES / name}", f"--window-size=1180,{height}", "--hide-scrollbars"]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--log-level=3", "--virtual-time-budget=2000"]
    subprocess.run([browser, *flags, *drawn, url], check=True, timeout=WAIT_S)


@contextlib.contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen]:
    """Runs a command of qt_jax until the end of the block."""
    process = subprocess.Popen([*QT, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _until_it_acts(url: str) -> None:
    """Waits for an episode's decision `STEP`."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with urllib.request.urlopen(url) as reply:
            state = json.load(reply)
        if any(session["step"] >= STEP for session in state["sessions"]):
            return
        time.sleep(0.05)
    raise SystemExit(f"No episode came to decision {STEP} in {WAIT_S} s.")


def main() -> None:
    draw = {"videos": videos, "page": page, "tour": tour}
    for name in sys.argv[1:] or draw:
        draw[name]()


if __name__ == "__main__":
    main()
