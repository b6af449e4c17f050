"""What the writer says of a dataset, and refuses before it starts."""

import json
from pathlib import Path

import pytest

from qt_jax.data import rlds_writer
from qt_jax.envs import metaworld
from qt_jax.errors import UserError
from tests import tiny


def test_a_collected_dataset_says_what_its_actions_are(dataset_path):
    metadata = json.loads((Path(dataset_path) / rlds_writer.VERSION / "metadata.json").read_text())
    action = metaworld.action_spec(tiny.get_config().env)
    assert metadata["action"] == {name: list(getattr(action, name)) for name in ("names", "low", "high")}


def test_unknown_runner_and_file_format(tmp_path):
    with pytest.raises(UserError, match="runner is 'spark'; expected one of"):
        rlds_writer.check_runner("spark")
    with pytest.raises(UserError, match="file_format is 'riegeli'; expected one of"):
        rlds_writer.write(str(tmp_path), [], action=None, observation=None, description="", file_format="riegeli")


def test_beam_without_beam_names_the_extra():
    with pytest.raises(UserError, match=r"pip install 'qt_jax\[data,beam\]'"):
        rlds_writer.check_runner("beam")
