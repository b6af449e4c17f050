"""Which files of the runs a slice would get differently from here, or not at all."""

import subprocess
import sys
import types

import ml_collections
import pytest

from launch import commit
from launch.__main__ import main
from launch.runs import resolve
from qt_jax.errors import UserError
from tests.conftest import ROOT
from tests.launch.test_launch import BUCKET, DRY

FILES = (
    "qt_jax/a.py",
    "qt_jax/b.py",
    "setup.cfg",
    "mine/experiment.py",
    "mine/helper.py",
    "mine/tables.py",
    "notes.md",
)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of these files, in which `mine.helper` was imported."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "all"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    helper = types.SimpleNamespace(__file__=str(tmp_path / "mine/helper.py"))
    monkeypatch.setitem(sys.modules, "mine.helper", helper)
    return tmp_path


def differing(tables="", encoder="usem3"):
    config = ml_collections.ConfigDict({"data": {"tables": tables, "text_encoder": encoder, "limits": ()}})
    run = types.SimpleNamespace(experiment="mine/experiment.py:bc", config=config)
    return commit.differing(commit.files_of([run]))


def test_what_the_runs_use_must_be_in_the_commit(repository):
    assert not differing("mine/tables.py", "mine.helper:encode") and len(commit.head()) == 40
    (repository / "notes.md").write_text("other")  # no run reads it
    (repository / "free.py").write_text("x")
    (repository / "qt_jax/__pycache__").mkdir()
    (repository / "qt_jax/__pycache__/a.pyc").write_text("x")
    assert not differing()
    for name in ("mine/experiment.py", "mine/helper.py", "qt_jax/b.py", "setup.cfg"):
        (repository / name).write_text("other")
        subprocess.run(["git", "add", name], check=True)  # not enough
    (repository / "qt_jax/a.py").unlink()
    (repository / "qt_jax/new.py").write_text("x")

    changed = ("mine/experiment.py", "mine/helper.py", "qt_jax/b.py", "setup.cfg")
    found = differing("free.py", "mine.tables:f")
    assert found == dict.fromkeys(changed, "differs from the commit HEAD") | {
        "free.py": "is not in the commit HEAD",
        "qt_jax/new.py": "is not in the commit HEAD",
        "qt_jax/a.py": "is deleted here",
    }
    listed = commit.listed(found)
    assert listed.endswith("and 4 more files") and "free.py is not in the commit HEAD; " in listed


def test_what_an_experiment_reads_while_it_is_loaded_must_be_in_the_commit(repository, monkeypatch):
    base = (ROOT / "tests/tiny.py").read_text()
    (repository / "mine/sizes.json").write_text("{}")
    (repository / "mine/tiny.py").write_text(f"open('mine/sizes.json').close()\n{base}")
    monkeypatch.setattr("launch.runs.READ", read := set())
    monkeypatch.setattr(commit, "READ", read)
    resolve("mine/tiny.py", [])
    open("notes.md").close()  # not while it was loaded
    assert differing()["mine/sizes.json"] == "is not in the commit HEAD" and "notes.md" not in read


def test_a_link_is_followed_and_hidden_files_are_left_out(repository):
    (repository / "link.py").symlink_to("mine/tables.py")
    (repository / "qt_jax/.a.py.swp").write_text("x")
    subprocess.run(["git", "add", "link.py"], check=True)
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "l"], check=True)
    assert not differing("link.py")
    (repository / "mine/tables.py").write_text("other")
    assert differing("link.py") == {"mine/tables.py": "differs from the commit HEAD"}


def test_a_folder_below_the_root_is_refused(repository, monkeypatch):
    monkeypatch.chdir(repository / "mine")
    with pytest.raises(UserError, match=f"This is mine/ of the repository {repository}; launch from its"):
        commit.head()


def test_a_name_that_the_slice_cannot_have_is_named(repository, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tables.py"
    elsewhere.write_text("x")
    found = differing(f"{repository}/mine/tables.py", str(elsewhere))
    assert found == {
        f"{repository}/mine/tables.py": "has another name on the slice: name it from here",
        str(elsewhere): "is not below this folder",
    }


def test_a_folder_without_a_commit_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="git rev-parse failed: .* launch from the root of a repository"):
        commit.head()


def test_the_launcher_refuses_and_a_dry_run_says_so(monkeypatch, capsys):
    monkeypatch.setattr(commit, "differing", lambda files: {"tests/tiny.py": "differs from the commit HEAD"})
    monkeypatch.setattr("launch.runs.Run.finished", lambda run: False)
    with pytest.raises(
        UserError,
        match="The slice gets the commit HEAD, and tests/tiny.py differs from the commit HEAD; commit",
    ):
        main(["tpu-vm", *DRY["tpu-vm"], *BUCKET])
    main(["tpu-vm", *DRY["tpu-vm"], *BUCKET, "--dry-run"])
    printed = capsys.readouterr()
    assert (
        "without --dry-run refused: The slice gets the commit HEAD, and tests/tiny.py differs" in printed.err
    )
    assert commit.head() in printed.out
