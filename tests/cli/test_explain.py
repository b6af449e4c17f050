"""That each error names a section of troubleshooting.md, and that it is shown."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qt_jax import plugins
from qt_jax.cli import explain, main
from qt_jax.data import tables
from qt_jax.errors import UserError, require_one_of
from qt_jax.faults import find
from qt_jax.policy.requests import Refused
from tests.conftest import ROOT

FILES = [path for room in ("qt_jax", "launch") for path in (ROOT / room).rglob("*.py")]


def raised(path: Path) -> Iterator[tuple[int, ast.expr | None]]:
    """Yields line and `topic` of each UserError that a file makes; None: the file's own topic."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "EpisodeLost"):
            yield node.lineno, next((word.value for word in node.keywords if word.arg == "topic"), None)


def module(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def test_every_error_has_a_topic_every_topic_a_section_and_every_section_an_error():
    used = {find(error).topic for error in (OSError(28, ""), MemoryError(), RuntimeError("CUDA_ERROR"))}
    used.add(Refused("late", "").topic)
    bare, count = [], 0
    for path in FILES:
        for line, topic in raised(path):
            count += 1
            if isinstance(topic, ast.Constant):
                used.add(topic.value)
            elif of := explain.of_module(module(path)):
                used.add(of)
            else:
                bare.append(f"{path}:{line}")
    assert count > 400 and not bare
    assert used == set(explain.sections())


def test_every_entry_is_of_a_module_and_none_says_what_the_one_above_it_says():
    modules = {module(path).removesuffix(".__init__") for path in FILES} | {"__main__"}
    assert set(explain.TOPICS) <= modules
    twice = [
        name for name, topic in explain.TOPICS.items() if topic == explain.of_module(name[: name.rfind(".")])
    ]
    assert not twice


def caught(call, *arguments) -> UserError:
    with pytest.raises(UserError) as info:
        call(*arguments)
    return info.value


def test_the_topic_is_the_error_s_own_or_that_of_the_file_that_raised_it():
    unknown = caught(tables.resolve, type("Settings", (), {"tables": "", "mixture": "none"}), {})
    assert unknown.topic == "" and explain.topic_of(unknown) == "dataset-tables"
    assert explain.line(unknown) == f"{unknown} More: python -m qt_jax explain dataset-tables"
    assert explain.topic_of(caught(plugins.find, "config.x", "no.such", {})) == "own-code"
    assert explain.topic_of(caught(require_one_of, "x", 1, [2])) == "settings"


def test_the_page_leads_to_every_section():
    head = explain.PAGE.read_text().partition("\n## ")[0]
    assert re.findall(r"\[([\w-]+)\]\(#([\w-]+)\)", head) == [
        (topic, topic) for topic in re.findall(r"\(#([\w-]+)", head)
    ]
    assert sorted(re.findall(r"\(#([\w-]+)", head)) == sorted(explain.sections())


def test_the_command(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["qt-jax", "explain", *arguments])
        main.run()
        return capsys.readouterr().out

    assert re.search(r"^  mesh +The mesh does not fit the number of devices or slices$", run(), re.M)
    shown = run("mesh")
    assert (
        shown.startswith("The mesh does not fit")
        and "plan --devices=8" in shown
        and "](" not in run("filters")
    )
    with pytest.raises(SystemExit, match="2"):
        run("meshes")
    assert "There is no topic 'meshes'; expected one of settings, " in capsys.readouterr().err
