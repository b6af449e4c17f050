"""`plan` through the door: what it reads from the compiled program agrees with numbers worked out by hand."""

import functools
import re
import subprocess
import sys

import jax
import pytest

from experiments import metaworld_mt10
from qt_jax.envs import metaworld
from qt_jax.models.q_transformer import Network
from qt_jax.training import hlo, sharding, topology
from qt_jax.training.state import init_state
from tests.conftest import ROOT


def plan(*flags: str, config: str = "metaworld_mt10", check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "qt_jax", "plan", f"--config=experiments/{config}.py", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def mebibytes(text: str, name: str) -> float:
    return float(re.search(rf"^  {re.escape(name)} +([\d,.]+) MiB", text, re.M)[1].replace(",", ""))


def test_a_data_mesh_sends_every_gradient_once_for_each_use():
    """Frames and actions pass through the same blocks, so a block's gradient is summed for each; the frames leave the last block after keys
    and values."""
    config = metaworld_mt10.get_config()
    network = Network.create(config.model, metaworld.action_spec(config.env), metaworld.observation_spec(config.env), 512)
    state = jax.eval_shape(functools.partial(init_state, config, network))
    size = 0.0
    for path, x in jax.tree_util.tree_leaves_with_path(state.params):
        name, layers = sharding.parameter_path(path), config.model.layers
        again = 0.0 if "blocks/" not in name else 1.0 if "/key_value/" in name or "blocks/norm/" in name else (layers - 1) / layers
        size += 4 * x.size * (1 + again)
    text = plan("--devices=8").stdout
    assert mebibytes(text, "all-reduce") == pytest.approx(size / 2**20, rel=0.05)
    assert "all-gather" not in text and mebibytes(text, "parameters") == pytest.approx(
        sum(4 * x.size for x in jax.tree.leaves(state.params)) / 2**20, abs=0.1
    )


def test_loops_count_as_often_as_they_run():
    text = """
%body (p: f32[4]) -> f32[4] {
  %all-reduce.1 = f32[4]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %while.1 = f32[4] while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %reduce-scatter.1 = f32[2]{0} reduce-scatter(%while.1), replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%add
  %all-gather.1 = (f32[2]{0}, f32[4]{0}) all-gather-start(%reduce-scatter.1), replica_groups={{0,1}}, dimensions={0}
}
"""
    assert hlo.collectives(text) == {"all-reduce": 3 * 16, "reduce-scatter": 16, "all-gather": 16}


def test_what_to_plan_for_must_be_said():
    assert "Give one of --topology" in plan(check=False).stderr


def test_a_missing_compiler_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "none.so"))
    result = plan("--topology=v5e:4x4", check=False)
    assert result.returncode == 2 and "run `make libtpu`" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / topology.LIBTPU).exists(), reason="needs `make libtpu`")
@pytest.mark.parametrize("mesh", [(), ("--config.mesh.fsdp=4",)], ids=["data", "fsdp"])
def test_the_real_tpu_compiler_takes_the_quickstart(mesh):
    text = plan("--topology=v5e:4x4", "--config.data.batch_size=64", *mesh, config="quickstart").stdout
    assert "16 x TPU v5 lite" in text and "fits TPU v5 lite: yes" in text and "step time (modelled" in text
