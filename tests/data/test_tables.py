"""The names in a config and the datasets that they stand for, a user's own tables included."""

import os

import pytest

from qt_jax.data import described, tables
from qt_jax.errors import UserError
from qt_jax.training import setup
from tests.data.recipes import NUMBERS, equal, make_config, make_iterator, make_recipe, take


@pytest.mark.parametrize(
    "mixture, message",
    [
        ("number", "did you mean 'numbers'"),
        ("fractal_army", "did you mean 'fractal_arm'"),
        ("zzz", "expected one of"),
    ],
)
def test_an_unknown_mixture_is_named(mixture, message):
    config = make_config(mixture=mixture)
    with pytest.raises(UserError, match=f"config.data.mixture is '{mixture}'.*{message}"):
        tables.resolve(config.data, {"numbers": NUMBERS})


def test_a_users_tables(tmp_path, synthetic_root):
    """One entry in a file of the user's, named from the config."""
    file = tmp_path / "lab.py"
    file.write_text(
        "import dataclasses\nfrom qt_jax.data.specs import SPECS\n"
        "SPECS = {'ours': dataclasses.replace(SPECS['fractal_arm'], path='fractal20220817_data')}\n"
        "MIXTURES = {'lab': {'ours': 2, 'bridge_v2': 1}}\n"
    )
    config = make_config(tables=str(file), mixture="lab", root=synthetic_root, bins=32)
    ours, bridge = tables.resolve(config.data, {})
    assert ours.weight == pytest.approx(2 / 3) and ours.spec.path == f"{synthetic_root}/fractal20220817_data"
    assert ours.spec.action.bins == (2, *(32,) * 6, 2) and bridge.spec.action.bins == (32,) * 6 + (2,)
    file.write_text("SPECS = 1 / 0")
    with pytest.raises(UserError, match="cannot be imported .ZeroDivisionError"):
        tables.resolve(config.data, {})
    config.data.tables = "nowhere.py"
    with pytest.raises(UserError, match="'nowhere.py', which is no file"):
        tables.resolve(config.data, {})
    (tmp_path / "lab.txt").write_text("SPECS = {}")
    config.data.tables = str(tmp_path / "lab.txt")
    with pytest.raises(UserError, match="lab.txt'; give a Python file, whose name ends with '.py'"):
        tables.resolve(config.data, {})


@pytest.mark.parametrize(
    "content, message",
    [
        ("SPECS = []", "has SPECS as a list; expected a dict"),
        ("SPECS = {'mine': '/data'}", r"has SPECS\['mine'\] as a str; expected a DatasetSpec"),
        ("MIXTURES = ['bridge_v2']", "has MIXTURES as a list; expected a dict"),
        (
            "MIXTURES = {'lab': ['bridge_v2']}",
            r"has MIXTURES\['lab'\] as a list; expected a dict of datasets",
        ),
        ("MIXTURES = {'lab': {}}", r"'lab' has weights \[\]; expected positive numbers, one a dataset"),
        *(
            (f"MIXTURES = {{'lab': {{'bridge_v2': {weight}}}}}", "'lab' has weights .*; expected positive")
            for weight in ("0", "-1.0", "float('nan')", "float('inf')", "None", "'two'")
        ),
        ("raise SystemExit(3)", "cannot be imported .SystemExit: 3"),
    ],
)
def test_tables_of_another_form_are_one_line(tmp_path, content, message):
    (tmp_path / "odd.py").write_text(content)
    config = make_config(tables=str(tmp_path / "odd.py"), mixture="lab")
    with pytest.raises(UserError, match=message):
        tables.resolve(config.data, {})


def test_a_described_dataset_is_read_where_its_description_was(dataset_path):
    """config.data.root is not put before it."""
    own = described.spec(os.path.relpath(dataset_path))
    settings = make_config(root="/nowhere", mixture="own").data
    (entry,) = tables.resolve(settings, {"own": own})
    assert tables._placed(own, "/nowhere").path == entry.spec.path == os.path.realpath(dataset_path)


def test_a_users_standardiser_reads_in_worker_processes(tmp_path, synthetic_root):
    """Spec and function in one file, as in docs/data.md; the index's and the loader's processes find them."""
    (tmp_path / "numbers_tables.py").write_text(
        "import dataclasses\n"
        "from qt_jax.data.standardisers import collected\n"
        "from tests.data.recipes import NUMBERS\n"
        "def mine(episode):\n    return collected(episode)\n"
        f"PATH = '{synthetic_root}/numbers_tfrecord'\n"
        "SPECS = {'numbers': dataclasses.replace(NUMBERS, path=PATH, standardise=mine)}\n"
    )
    config = make_config(tables=str(tmp_path / "numbers_tables.py"), mixture="numbers", workers=2)
    recipe = setup.prepare(config, tables.resolve(config.data, {}))[1]
    batches = take(make_iterator(recipe, workers=2, threads=1), 2)
    for one, other in zip(batches, take(make_iterator(make_recipe(synthetic_root)), 2)):
        equal(one, other)
