"""The pages of docs/ in the order of README's path: each command as it stands, with runs of toy size.

They share one folder, as a reader's clone is.
"""

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from qt_jax.safety import SafetyLimits
from qt_jax.specs import ActionSpec
from tests.conftest import ROOT
from tests.curation import recordings

PAGES = sorted((ROOT / "docs").glob("*.md"))
PAGES += [ROOT / name for name in ("README.md", "experiments/diagnosis.md", "qt_jax/troubleshooting.md")]
SMALL = [
    "--config.data.batch_size=8",
    "--config.model.layers=1",
    "--config.model.width=32",
    "--config.model.patch_stages=((8,16,0),)",
    "--config.model.image_tokens=1",
    "--config.train.steps=2",
]
TOY = [
    *SMALL,
    "--config.env.image_size=32",
    "--config.collect.demonstrations=2",
    "--config.collect.autonomous=2",
    "--config.collect.workers=1",
    "--config.evaluate.episodes=1",
    "--config.evaluate.num_envs=1",
    "--config.evaluate.max_decisions=2",
]
NOT_RUN = ("make ",)
"""These install things or are for people. `make quickstart` is run by its commands, most before a release."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A reader's clone."""
    here = tmp_path_factory.mktemp("reader")
    for path in ROOT.iterdir():
        if path.name not in ("data", "runs"):
            (here / path.name).symlink_to(path)
    return here


@pytest.fixture(scope="module")
def quickstart(clone) -> list[str]:
    """The commands of `make quickstart`."""
    dry_run = ["make", "-n", "quickstart"]
    listed = subprocess.run(dry_run, cwd=clone, capture_output=True, text=True, check=True).stdout
    commands = [line for line in listed.splitlines() if " -m qt_jax " in line]
    names = [command.split()[3] for command in commands]
    assert names == ["collect", "train", "evaluate", "train", "evaluate"]
    return commands


@pytest.fixture(scope="module")
def folder(clone, quickstart) -> Path:
    """A reader's clone, in which `make quickstart` collected and trained Q-Transformer."""
    collect, *_, train, _ = quickstart
    for command in (collect, train):
        run(clone, command)
    return clone


def run(folder: Path, command: str, *settings: str) -> str:
    """Runs a line of a page; those of the quickstart and of sweeps with toy settings."""
    trains = re.search(r"--config=experiments/quickstart|--sweep=", command) and " results " not in command
    text = " ".join([command.split("   #")[0], *map(shlex.quote, [*(TOY if trains else []), *settings])])
    done = subprocess.run(text, shell=True, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{text}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout


def commands(page: str) -> list[str]:
    """Returns the lines of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if not line.startswith(NOT_RUN)]


def code(page: str, name: str) -> str:
    """Returns the page's block of Python that holds `name`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    return next(block for block in blocks if name in block)


def limits(page: str) -> str:
    """Returns the page's block of JSON."""
    return re.findall(r"```json\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)[0]


@pytest.mark.slow
def test_quickstart(folder, quickstart):
    _, *reference, _, evaluate = quickstart
    for command in (*reference, evaluate, *commands("quickstart.md")):
        run(folder, command)
    left = {path.name for path in (folder / "runs" / "alpha3").iterdir()}
    table = (ROOT / "docs" / "quickstart.md").read_text().split("## What a run leaves")[1]
    named = re.findall(r"`([\w./]+?)/?`", "".join(re.findall(r"^\| `.*?\|", table, re.M)))
    assert set(named) - left == {"wandb"}


def test_data(folder, synthetic_root):
    (folder / "mine.py").write_text(code("data.md", "# mine.py"))
    (folder / "lab.py").write_text(code("data.md", "# lab.py"))
    recordings.lerobot(folder / "RECORDINGS")
    *prepare, train = commands("data.md")
    for command in prepare:
        run(folder, command)
    run(folder, ".venv/bin/python -m qt_jax train --config=mine.py", *SMALL)
    # There are no files of the page's kitchen: its table is read, and RT-1's data trained on.
    rt1 = ["--config.data.mixture=fractal_arm", f"--config.data.root={synthetic_root}"]
    run(folder, train, *SMALL, *rt1, "--config.data.image_size=32", "--config.workdir=runs/lab")


def _of_the_sweep_here(command: str) -> bool:
    return "launch local" in command or "launch results" in command


def test_cluster(folder):
    """All but the six runs of the sweep; tests/launch has a sweep of its own."""
    for command in commands("cluster.md"):
        if not _of_the_sweep_here(command):
            run(folder, command)
    assert len((folder / "jobsets.yaml").read_text()) > 500


@pytest.mark.slow
def test_the_sweep_of_the_cluster_page(folder):
    for command in filter(_of_the_sweep_here, commands("cluster.md")):
        run(folder, command)
    sweep = folder / "runs" / "sweeps" / "alpha"
    table = (sweep / "table.csv").read_text().splitlines()
    assert len(table) == 7 and "validation/loss" in table[0] and (sweep / "sweep.png").exists()


def test_robot(folder):
    *export, serve = commands("robot.md")
    for command in export:
        run(folder, command)
    server = subprocess.Popen(
        shlex.split(serve.split("   #")[0]),
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert any("serving" in line for line in server.stdout)
        prelude = (
            "import numpy as np\nimage, state = np.zeros((32, 32, 3), np.uint8), np.zeros(4, np.float32)\n"
        )
        names = "openpi_client", "load_policy", "ranked(", "ControlLoop(policy"
        client, script, ranks, loop = (prelude + code("robot.md", name) for name in names)
        openpi = [ROOT / ".openpi" / "bin" / "python", "-c", client]
        subprocess.run(openpi, cwd=folder, check=True, timeout=120)
        (folder / "policy").symlink_to("runs/quickstart/q_transformer/policy")
        subprocess.run([".venv/bin/python", "-c", script], cwd=folder, check=True, timeout=120)
        ranks = ranks.replace(":8001", ":8000").replace("deadline_ms=100", "deadline_ms=60_000")
        ranks += "assert policy.metadata['ranked']['ranked'] == 1\n"
        subprocess.run([".venv/bin/python", "-c", ranks], cwd=folder, check=True, timeout=120)
        (folder / "limits.json").write_text(limits("robot.md"))
        loop += "assert report['replies'] > 1 and set(report['rate']['late_ms']) >= {'p50', 'p99'}\n"
        subprocess.run([".venv/bin/python", "-c", loop], cwd=folder, check=True, timeout=120)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
    assert server.wait(timeout=60) == 0


def test_extend():
    """Its commands are those of the examples, which tests/test_examples.py runs."""
    for command in commands("extend.md"):
        said = " ".join(command.removeprefix(".venv/bin/").split())
        (example,) = set(re.findall(r"examples/\w+\.py", said))
        assert said in " ".join((ROOT / example).read_text().replace("\\", "").split())


def test_the_limits_of_the_robot_page_fit_its_robot():
    """Of Meta-World's action and state, which the quickstart has."""
    action = ActionSpec(("x", "y", "z", "grip"), (-1.0,) * 4, (1.0,) * 4, (256,) * 4)
    SafetyLimits.from_json(json.loads(limits("robot.md"))).check(action, 4)


def test_every_picture_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    assert shown == set((ROOT / "docs" / "images").resolve().iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]
