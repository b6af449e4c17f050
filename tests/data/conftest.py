"""LeRobot folders for the tests of reading them where they lie."""

import shutil

import pytest

from tests.curation import recordings


@pytest.fixture(scope="session")
def lerobot_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lerobot")
    for version in ("v2.1", "v3.0"):
        for kind in ("video", "JPEG"):
            recordings.lerobot(root / f"{version}-{kind}", version=version, kind=kind)
    return root


@pytest.fixture
def lerobot_folder(lerobot_folders, tmp_path):
    """{name: a copy to spoil}."""
    return lambda name: shutil.copytree(lerobot_folders / name, tmp_path / name)
