"""Meshes and shardings: what lies where, and that it changes nothing."""

import functools
import subprocess
import sys

import jax
import ml_collections
import pytest

from experiments import quickstart
from qt_jax import agents
from qt_jax.envs import metaworld
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.specs import Interface
from qt_jax.training import mesh, sharding
from qt_jax.training.state import init_state
from tests.conftest import ROOT, with_devices
from tests.models.test_q_transformer import make_network


def settings(data=-1, fsdp=1, tensor=1):
    return ml_collections.ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor})


@pytest.mark.parametrize(
    "agent, modality, extent",
    [
        ("q_transformer", "images", "mixed"),
        pytest.param("q_transformer", "state", "chunks", marks=pytest.mark.slow),
        pytest.param("awac", "state", "networks", marks=pytest.mark.slow),
        pytest.param("q_transformer", "images", "plain", marks=pytest.mark.slow),
        pytest.param("bc", "state", "plain", marks=pytest.mark.slow),
        pytest.param("q_transformer", "images", "variants", marks=pytest.mark.slow),
        pytest.param("q_transformer", "state", "variants", marks=pytest.mark.slow),
        pytest.param("bc", "images", "plain", marks=pytest.mark.slow),
        pytest.param("decision_transformer", "state", "plain", marks=pytest.mark.slow),
        pytest.param("q_transformer", "images", "networks", marks=pytest.mark.slow),
        pytest.param("q_transformer", "state", "closed_form", marks=pytest.mark.slow),
        pytest.param("q_transformer", "images", "frozen", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_the_same_on_every_mesh(agent, modality, extent):
    """Data, fsdp, tensor and mixed meshes of 8 simulated devices, float64, very uneven shards.

    Accumulation; remat and scan as variants; two networks; a frozen image encoder.
    """
    environment = with_devices(8, JAX_ENABLE_X64="1")
    command = [sys.executable, "-m", "tests.training.mesh_steps", agent, modality, extent]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def test_sizes_fill_the_devices():
    assert mesh.axis_sizes(settings(fsdp=2), 8) == (4, 2, 1)
    assert mesh.axis_sizes(settings(2, 2, -1), 8) == (2, 2, 2)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((-1, 3, 1), "together 3 on 8 devices"),
        ((2, 2, 1), "together 4 on 8"),
        ((-1, -1, 1), "at most once"),
        ((0, 1, 1), "positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        mesh.axis_sizes(settings(*sizes), 8)


def abstract_state(config, ensemble, **sizes):
    shapes = jax.eval_shape(functools.partial(init_state, config, ensemble))
    device_mesh = jax.sharding.AbstractMesh(
        tuple({"data": 1, "fsdp": 1, "tensor": 1, **sizes}.values()), mesh.AXES
    )
    return shapes, sharding.abstract(shapes, sharding.of_state(device_mesh, shapes))


def test_fsdp_divides_the_train_state():
    """On 8 devices each holds about an eighth of parameters, both moments and the target network."""
    config = quickstart.get_config()
    interface = Interface(metaworld.action_spec(config.env), metaworld.observation_spec(config.env), 512)
    ensemble = agents.make_ensemble(config, interface)
    shapes, placed = abstract_state(config, ensemble, fsdp=8)
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    assert sharding.bytes_per_device(placed) <= 1.1 * total / 8


def test_rules_split_heads_and_name_what_does_not_fit():
    sizes = {"data": 1, "fsdp": 2, "tensor": 4}
    spec, why = sharding.decide("transformer/blocks/query/kernel", (2, 128, 4, 32), sizes)
    assert tuple(spec) == (None, "fsdp", "tensor", None) and why.startswith("rule")
    spec, why = sharding.decide("transformer/blocks/query/kernel", (2, 128, 6, 32), sizes)
    assert tuple(spec) == (None, "fsdp", None, None) and "tensor (4) does not divide 6" in why
    assert tuple(sharding.decide("cameras/front/encoder/stem/kernel", (3, 3, 64, 128), sizes)[0]) == (
        None,
        None,
        None,
        "fsdp",
    )
    assert sharding.decide("start", (128,), sizes) == (jax.sharding.PartitionSpec(), "small")


def test_each_of_two_networks_lies_like_a_single_one():
    sizes = {"data": 1, "fsdp": 2, "tensor": 4}
    one = sharding.decide("transformer/blocks/query/kernel", (2, 128, 4, 32), sizes)
    two = sharding.decide("transformer/blocks/query/kernel", (2, 2, 128, 4, 32), sizes, networks=2)
    assert tuple(two[0]) == (None, *one[0]) and two[1] == one[1]
    assert tuple(sharding.decide("start", (2, 1000), sizes, networks=2)[0]) == (None,), "each is small"
    assert not sharding.decide("count", (), sizes, networks=2)[0]


def test_moments_and_target_lie_with_their_parameter():
    config = quickstart.get_config()
    _, state = abstract_state(config, Ensemble(make_network()), fsdp=4, tensor=2)
    params = {
        sharding.parameter_path(p): x.sharding.spec
        for p, x in jax.tree_util.tree_leaves_with_path(state.params)
    }
    assert any(tuple(spec) for spec in params.values())
    for tree in (state.target_params, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
        assert {
            sharding.parameter_path(p): x.sharding.spec for p, x in jax.tree_util.tree_leaves_with_path(tree)
        } == params


def test_table_has_a_line_for_every_parameter():
    _, state = abstract_state(quickstart.get_config(), Ensemble(make_network()), fsdp=2)
    lines = sharding.table(state.params).splitlines()
    assert len(lines) == 1 + len(jax.tree.leaves(state.params))
    assert any("blocks/up/kernel" in line and "(None, 'fsdp', 'tensor')" in line for line in lines)


def test_every_rule_has_a_parameter():
    """A rule that matches nothing is a typo or left over."""
    _, state = abstract_state(quickstart.get_config(), Ensemble(make_network(outputs=2)), fsdp=1)
    paths = [sharding.parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    unused = [
        p
        for p, _ in sharding.RULES
        if not any(
            sharding.decide(path, (8, 8, 8, 8, 8), dict.fromkeys(mesh.AXES, 1))[1] == f"rule {p}"
            for path in paths
        )
    ]
    assert not unused
