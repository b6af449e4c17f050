"""The benchmark's settings, as the package offers them."""

import jax
import pytest

from experiments import metaworld_benchmark
from experiments.metaworld_recipes import METHODS
from qt_jax.errors import UserError
from qt_jax.training import config
from qt_jax.training.benchmarked import SETTINGS, benchmarked_config

MEASURED = {
    "q_transformer": "q_transformer_dropout",
    "bc": "bc_demonstrations",
    "decision_transformer": "decision_transformer",
    "awac": "awac",
    "iql": "iql",
    "cql": "cql",
}
OF_THE_DATA = ("data.balance.demonstrations", "data.episodes", "data.segment_length")


@pytest.mark.parametrize("agent", SETTINGS)
def test_they_are_those_that_were_measured(agent):
    measured = {key: value for key, value in METHODS[MEASURED[agent]][1].items() if key not in OF_THE_DATA}
    assert SETTINGS[agent] == measured


@pytest.mark.parametrize("agent", SETTINGS)
def test_a_config_of_them_is_valid_and_trains_as_many_steps_of_a_segment(agent):
    found = benchmarked_config(agent)
    config.validate(found, jax.device_count())
    measured = metaworld_benchmark.get_config(f"{MEASURED[agent]},a,0")
    more = found.model.window - measured.model.window
    assert found.data.segment_length == measured.data.segment_length + more


def test_an_agent_that_was_not_measured_is_refused():
    with pytest.raises(UserError, match="agent is 'mine'"):
        benchmarked_config("mine")
