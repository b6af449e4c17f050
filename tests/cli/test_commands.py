"""What a user sees of a command when something is wrong: one line, exit status 2, no traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest

from experiments import ogbench, quickstart, scene_benchmark
from qt_jax import agents
from qt_jax.cli import help, main, settings, start
from qt_jax.cli.commands import COMMANDS
from qt_jax.errors import UserError
from tests import tiny
from tests.conftest import ROOT, assert_group_ends, run_command, train


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "qt_jax", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_usage_and_unknown_command():
    assert "collect" in run("--help").stdout and run("--help").returncode == 0
    result = run("fly")
    assert result.returncode == 2 and "unknown command 'fly'" in result.stderr


BASE = ROOT / ".base/bin/python"
EVERY_COMMAND = """
import sys
from qt_jax.cli import commands, main
for arguments in [["--help"], *([name, *more] for name in commands.COMMANDS for more in ([], ["--help"]))]:
    sys.argv = ["qt-jax", *arguments]
    try:
        main.run()
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
"""


@pytest.mark.skipif(not BASE.exists(), reason="needs `make .base/.installed`")
def test_the_base_install_says_which_commands_there_are_and_what_to_install_for_each():
    """In one process, which no command ends by a traceback."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([BASE, "-c", EVERY_COMMAND], env=environment, capture_output=True, text=True)
    usage, (first, *lines) = done.stdout, done.stderr.splitlines()
    assert first == "status 0"
    assert all(re.search(rf"^  {name} +[a-z,]+ +\S", usage, re.M) for name in COMMANDS)
    assert len(lines) == 4 * len(COMMANDS) and lines[1::2] == ["status 2"] * 2 * len(COMMANDS)
    for name, one, other in zip(COMMANDS, lines[::4], lines[2::4]):
        assert one == other and one.startswith(f"qt_jax {name}: the package absl is not installed; ")
    assert "qt_jax train: the package absl is not installed; pip install 'qt_jax[train,data]'" in lines


@pytest.mark.parametrize(
    "name, package, remedy",
    [
        ("export", "flax", "pip install 'qt_jax[train]'"),
        ("export", "gymnasium", "pip install 'qt_jax[train,sim]'"),
        ("serve", "tensorflow_datasets", "pip install 'qt_jax[serve,data]'"),
        ("collect", "metaworld", "pip install 'qt_jax[train,data,sim]'"),
        ("onnx", "jax2onnx", "pip install 'qt_jax[onnx]'"),
    ],
)
def test_a_package_that_is_missing_later_is_one_line_too(monkeypatch, capsys, name, package, remedy):
    missing = ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.part")
    monkeypatch.setattr(start, "run", Mock(side_effect=missing))
    monkeypatch.setattr(sys, "argv", ["qt-jax", name])
    with pytest.raises(SystemExit, match="2"):
        main.run()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"qt_jax {name}: the package {package} is not installed; {remedy}")


def test_a_user_s_config_that_imports_what_is_missing_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("import a_module_of_mine\n")
    result = run("train", f"--config={tmp_path / 'mine.py'}")
    assert result.returncode == 2 and "qt_jax train: No module named 'a_module_of_mine'" in result.stderr


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("collect", ["--config.env.tasks=('fly',)"], "unknown tasks ['fly']"),
        ("train", ["--config.data.path=/nowhere"], "/nowhere holds no RLDS dataset"),
        ("train", ["--config.discount=2.0"], "config.discount is 2.0"),
        ("evaluate", ["--config.workdir=/nowhere"], "holds no checkpoint"),
        (
            "collect",
            ["--config.collect.demonstration=3"],
            "--config.collect.demonstration; did you mean --config.collect.demonstrations?",
        ),
        (
            "collect",
            ["--config.collect.demonstrations=-3"],
            "config.collect.demonstrations is -3, expected 0 or more",
        ),
        (
            "collect",
            ["--config.env.action_repeat=0"],
            "config.env.action_repeat is 0; expected a positive number",
        ),
        (
            "train",
            ["--config.learning_rate=3"],
            "--config.learning_rate; did you mean --config.optimizer.learning_rate?",
        ),
        (
            "train",
            ["--config.data.nokey=3"],
            "unknown setting --config.data.nokey (`python -m qt_jax train --config=FILE --help` lists",
        ),
        ("train", ["--config.data.batch_size=many"], "invalid literal for int"),
        (
            "train",
            ["--config.discount=None"],
            "--config.discount cannot be None; of the settings --config.data.",
        ),
        ("train", ["--config=nowhere.py"], "No such file or directory: 'nowhere.py'"),
    ],
)
def test_errors_are_one_line(name, overrides, message):
    result = run_command(name, *overrides, check=False)
    assert result.returncode == 2
    (line,) = [text for text in result.stderr.splitlines() if text.startswith(f"qt_jax {name}:")]
    assert message in line and "Traceback" not in result.stderr


def test_help_lists_every_setting_and_explains():
    lines = {line.split("=")[0]: line for line in run_command("train", "--help").stdout.splitlines()}
    assert re.fullmatch(
        r"--config.agent.alpha=1.0 +# weight of the conservative term.*", lines["--config.agent.alpha"]
    )
    assert re.fullmatch(r"--config.mesh.fsdp=1 +# shards of.*", lines["--config.mesh.fsdp"])
    assert re.fullmatch(r"--config.env.bins=16 +# of each action dim", lines["--config.env.bins"])


@pytest.mark.parametrize("last", ["0.5", "None"])
def test_a_setting_that_has_a_number_is_set_to_none(last):
    """As `advise` says for natural batches; of several values the last one counts."""
    setting = "--config.data.balance.successes"
    given = [f"{setting}={value}" for value in ("None", "0.5", last)]
    assert f"\n{setting}={last} " in run_command("train", *given, "--help").stdout


def test_help_explains_the_settings_of_the_suite_that_is_chosen():
    assert re.search(
        r"^--config.env.tasks=\('all',\) +# .*the eight$", help.of(scene_benchmark.get_config()), re.M
    )


def test_evaluate_refuses_the_config_of_another_agent(trained):
    result = run_command(
        "evaluate", f"--config.workdir={trained.workdir}", "--config.model.width=64", check=False
    )
    assert result.returncode == 2 and "was made with config.model.width=32, this run has 64" in result.stderr


def test_training_interrupted_by_ctrl_c_while_it_compiles_ends_at_once(dataset_path, tmp_path):
    command = [sys.executable, "-m", "qt_jax", "train", "--config=tests/tiny.py"]
    command += [f"--config.data.path={dataset_path}", f"--config.workdir={tmp_path}"]
    command += ["--config.train.compilation_cache="]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": ""}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    while not (tmp_path / "first_start").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(1.0)  # the program compiles after this file is written
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=60)[1] and process.returncode == 130


def test_collect_refuses_to_overwrite(dataset_path):
    result = run_command("collect", f"--config.data.path={dataset_path}", check=False)
    assert result.returncode == 2 and "already holds a dataset" in result.stderr


def interrupt(leader):
    os.killpg(leader, signal.SIGINT)  # as a terminal does: to the command and its workers


def kill_a_worker(leader):
    command = ["pgrep", "-P", str(leader), "-f", "spawn_main"]
    workers = subprocess.run(command, capture_output=True, text=True).stdout.split()
    os.kill(int(workers[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    "disturb, message",
    [
        (interrupt, "interrupted"),  # tests/data/test_rlds.py has a short one
        (kill_a_worker, "config.collect.workers=2 died"),
    ],
)
@pytest.mark.slow
def test_a_disturbed_collection_leaves_no_dataset_and_no_process(tmp_path, disturb, message):
    """The real command with its workers, when the first episodes are done."""
    command = [sys.executable, "-m", "qt_jax", "collect", "--config=tests/tiny.py"]
    command += [f"--config.data.path={tmp_path}/x", "--config.env.cameras=()"]
    command += ["--config.collect.demonstrations=500", "--config.collect.workers=2"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    for piece in iter(lambda: process.stderr.read(20), ""):
        if re.search(r" [1-9]\d*/", piece):
            break
    disturb(process.pid)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and message in rest and "Traceback" not in rest
    assert_group_ends(process.pid)
    config = tiny.get_config()
    config.data.path = f"{tmp_path}/x"
    with pytest.raises(UserError, match="holds no RLDS dataset"):
        train(config)


@pytest.mark.parametrize(
    "config",
    [*map(quickstart.get_config, sorted(agents.AGENTS)), ogbench.get_config()],
    ids=[*sorted(agents.AGENTS), "play"],
)
def test_every_setting_says_what_it_means(config):
    lines = help.of(config).splitlines()
    assert len(lines) == len(settings.flattened(config))
    assert not [line for line in lines if "  # " not in line]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--config=tests/tiny.py", "--help"]])
def test_a_pipe_that_nobody_reads_is_no_traceback(arguments):
    command = [sys.executable, "-m", "qt_jax", *arguments]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
