"""The pages of docs/ in the order of README's path, in one folder as a reader has it: each command as it
stands, with runs of toy size.
"""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.data import recordings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "diagnosis.md"]
TOY = ["--config.env.image_size=32", "--config.collect.demonstrations=2", "--config.collect.autonomous=2",
       "--config.collect.workers=1", "--config.data.batch_size=8", "--config.model.layers=1", "--config.model.width=32",
       "--config.model.patch_stages=((8,16,0),)", "--config.model.image_tokens=1", "--config.train.steps=2",
       "--config.evaluate.episodes=1", "--config.evaluate.num_envs=1", "--config.evaluate.max_decisions=2"]  # fmt: skip
NOT_RUN = ("make ",)
"""Installs things, or is for people; of `make quickstart` the commands are run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A reader's clone, in which `make quickstart` ran."""
    here = tmp_path_factory.mktemp("reader")
    for path in ROOT.iterdir():
        if path.name not in ("data", "runs"):
            (here / path.name).symlink_to(path)
    listed = subprocess.run(
        ["make", "-n", "quickstart"], cwd=here, capture_output=True, text=True, check=True
    ).stdout
    commands = [line for line in listed.splitlines() if " -m qt_jax " in line]
    assert [command.split()[3] for command in commands] == [
        "collect",
        "train",
        "evaluate",
        "train",
        "evaluate",
    ]
    for command in commands:
        run(here, command)
    return here


def run(folder: Path, command: str, *settings: str) -> str:
    """A line of a page; those of the quickstart, of what `mine.py` has and of sweeps with toy settings."""
    toy = (
        TOY
        if re.search(r"--config=experiments/quickstart|--sweep=", command)
        and "collect --sweep" not in command
        else []
    )
    text = " ".join([command.split("   #")[0], *map(shlex.quote, [*toy, *settings])])
    done = subprocess.run(text, shell=True, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{text}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout


def commands(page: str) -> list[str]:
    """Of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if not line.startswith(NOT_RUN)]


def code(page: str, name: str) -> str:
    """The page's block of Python that holds `name`."""
    return next(
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
        if name in block
    )


def test_quickstart(folder):
    for command in commands("quickstart.md"):
        run(folder, command)
    left = {path.name for path in (folder / "runs" / "alpha3").iterdir()}
    named = re.findall(
        r"`([\w./]+?)/?`",
        "".join(re.findall(r"^\| `.*?\|", (ROOT / "docs" / "quickstart.md").read_text(), re.M)),
    )
    assert set(named) - left == {"wandb"}, "the table of what a run leaves"


def test_data(folder, synthetic_root):
    (folder / "mine.py").write_text(code("data.md", "# mine.py"))
    (folder / "lab.py").write_text(code("data.md", "# lab.py"))
    recordings.lerobot(folder / "RECORDINGS")
    small = [
        setting
        for setting in TOY
        if ".env." not in setting and ".collect." not in setting and ".evaluate." not in setting
    ]
    *prepare, train = commands("data.md")
    for command in prepare:
        run(folder, command)
    run(folder, ".venv/bin/python -m qt_jax train --config=mine.py", *small)
    # The kitchen of the page is nobody's: its table is read, and RT-1's data trained on.
    run(folder, train, *small, "--config.data.mixture=fractal_arm", f"--config.data.root={synthetic_root}", "--config.data.image_size=32",
        "--config.workdir=runs/lab")  # fmt: skip


def test_cluster(folder):
    for command in commands("cluster.md"):
        run(folder, command)
    sweep = folder / "runs" / "sweeps" / "alpha"
    table = (sweep / "table.csv").read_text().splitlines()
    assert len(table) == 7 and "validation/loss" in table[0] and (sweep / "sweep.png").exists()
    assert len((folder / "jobsets.yaml").read_text()) > 500


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
        client = prelude + code("robot.md", "openpi_client")
        subprocess.run(
            [ROOT / ".openpi" / "bin" / "python", "-c", client], cwd=folder, check=True, timeout=120
        )
        (folder / "policy").symlink_to("runs/quickstart/q_transformer/policy")
        subprocess.run(
            [".venv/bin/python", "-c", prelude + code("robot.md", "load_policy")],
            cwd=folder,
            check=True,
            timeout=120,
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
    assert server.wait(timeout=60) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]
