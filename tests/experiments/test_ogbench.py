import itertools

import pytest

from experiments import ogbench
from qt_jax.errors import UserError
from qt_jax.training.config import validate


def test_every_row_has_a_valid_config():
    paths = set()
    for row in itertools.product(ogbench.SETS, ogbench.METHODS, ogbench.TASKS, "02"):
        config = ogbench.get_config(",".join(row))
        validate(config, devices=1)
        paths.add(config.workdir)
        assert config.data.path == f"data/ogbench/{row[0]}" and config.seed == int(row[3])
    assert len(paths) == 4 * len(ogbench.METHODS) * 6 * 2
    alone = ogbench.get_config("puzzle-3x3-play")
    assert alone.workdir.endswith("puzzle-3x3-play/q_transformer/all/0") and alone.value_range[1] == 0
    assert alone.value_range[0] == pytest.approx(-9 / (1 - 0.99**5))  # nine lights wrong for ever


@pytest.mark.parametrize("arguments", ["scene", "scene-play,ppo", "scene-play,iql,task6"])
def test_what_a_row_does_not_have(arguments):
    with pytest.raises(UserError, match=f"ogbench.py:{arguments} has '.*'; expected one of "):
        ogbench.get_config(arguments)
