"""`plan` as a command: what it reads from the compiled program agrees with numbers worked out by hand."""

import functools
import re
import subprocess
import sys

import jax
import pytest

from experiments import metaworld_mt10
from qt_jax import agents
from qt_jax.envs import metaworld
from qt_jax.planning import plan, topology
from qt_jax.planning.hlo import Collective
from qt_jax.specs import Interface
from qt_jax.training import sharding
from qt_jax.training.state import init_state
from tests.conftest import ROOT


def run_plan(*flags: str, config: str = "metaworld_mt10", check: bool = True) -> subprocess.CompletedProcess:
    file = config if ".py" in config else f"{config}.py"
    command = [sys.executable, "-m", "qt_jax", "plan", f"--config=experiments/{file}", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def mebibytes(text: str, name: str) -> float:
    return float(re.search(rf"^  {re.escape(name)} +([\d,.]+) MiB", text, re.M)[1].replace(",", ""))


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_bytes_sent_agree_with_a_count_by_hand(mesh):
    """Every gradient is summed once for each use of its parameter.

    With fsdp, every sharded parameter is gathered for each use.

    Frames and actions pass through the same blocks, two uses, except that frames leave the last block after
    its keys and values. Online and target network gather; the backward pass finds what the forward pass
    gathered.
    """
    config = metaworld_mt10.get_config()
    interface = Interface(metaworld.action_spec(config.env), metaworld.observation_spec(config.env), 512)
    ensemble = agents.make_ensemble(config, interface)
    state = jax.eval_shape(functools.partial(init_state, config, ensemble))
    sizes, gathered, reduced = dict(data=1, fsdp=1, tensor=1) | {mesh: 8}, 0.0, 0.0
    whole_blocks = (config.model.layers - 1) / config.model.layers
    for path, x in jax.tree_util.tree_leaves_with_path(state.params):
        name = sharding.parameter_path(path)
        of_frames = (
            0.0
            if "blocks/" not in name
            else 1.0
            if "/key_value/" in name or "blocks/norm/" in name
            else whole_blocks
        )
        reduced += 4 * x.size * (1 + of_frames)
        if "fsdp" in sharding.decide(name, x.shape, sizes)[0] and mesh == "fsdp":
            gathered += 4 * x.size * 2 * (1 + of_frames)
    text = run_plan("--devices=8", *(f"--config.mesh.{axis}={size}" for axis, size in sizes.items())).stdout
    assert mebibytes(text, "all-reduce") == pytest.approx(reduced / 2**20, rel=0.05)
    assert (
        not gathered
        and "all-gather" not in text
        or mebibytes(text, "all-gather") == pytest.approx(gathered / 2**20, rel=0.05)
    )
    assert "all-to-all" not in text and "collective-permute" not in text, "activations travel"
    held = sum(4 * x.size for x in jax.tree.leaves(state.params)) / (8 if mesh == "fsdp" else 1)
    assert mebibytes(text, "parameters") == pytest.approx(held / 2**20, abs=0.06)


def test_what_is_sent_is_told_by_kind_and_what_crosses_slices_apart():
    pair, four = ((0, 1),), ((0, 1, 2, 3),)
    exchanges = {Collective("all-reduce", 2**20, pair): 3, Collective("all-reduce", 2**19, four): 2}
    exchanges[Collective("all-reduce", 2**18, (), slices=8)] = 4
    sent = plan.sent(exchanges)
    assert sent["all-reduce"] == (2**22, 5, "2 or 4 devices")
    assert sent["all-reduce between slices"] == (2**20, 4, "8 slices")
    values = dict(agent="bc", parameters=1, batch=(8, 5), mesh={"data": 16}, scanned=False, flops=1e9)
    values |= dict(sent=sent, device="TPU v5 lite", device_memory=2**34, memory={"total": 2**30})
    values |= dict(compute_s=2e-3, memory_s=3e-3, wire_s=1e-3, between_s=4e-4)
    assert "between slices" not in plan.report(values | {"across": "", "sent": {}, "between_s": 0})
    text = plan.report(values | {"across": "; data crosses the 2 slices"})
    assert "data 16; data crosses the 2 slices" in text and "1 us a hop; between slices" in text
    assert "all-reduce between slices" in text and "1.0 MiB in 4 exchanges, over 8 slices" in text
    assert "communication 1 ms (of it 0.4 ms between slices); between 3 ms (all overlapped) and 4 ms" in text
    assert "efficiency (modelled, no overlap): 75%" in text


def test_what_to_plan_for_must_be_said():
    assert "Give one of --topology" in run_plan("--devices=2", "--roofline", check=False).stderr


def test_a_missing_compiler_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "none.so"))
    result = run_plan("--topology=v5e:4x4", check=False)
    assert result.returncode == 2 and "run `make libtpu`" in result.stderr
    result = run_plan("--fits=h10", check=False)
    assert (
        result.returncode == 2
        and "--fits=h10: expected one of v5e, v6e, v4, v5p, a100, h100, h200." in result.stderr
    )


@pytest.mark.slow
def test_a_roofline_needs_no_devices():
    assert re.search(r"^  TPU v4 +step .* memory +\d+%", run_plan("--roofline").stdout, re.M)


needs_compiler = pytest.mark.skipif(not (ROOT / topology.LIBTPU).exists(), reason="needs `make libtpu`")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "config, flags",
    [
        ("quickstart", ["--config.data.batch_size=64"]),
        ("quickstart", ["--config.data.batch_size=64", "--config.mesh.fsdp=4"]),
        ("sizes.py:rt1", []),
        ("sizes.py:300m", ["--config.mesh.fsdp=16"]),
    ],
)
def test_the_real_tpu_compiler_takes_the_train_step(config, flags):
    text = run_plan("--topology=v5e:4x4", *flags, config=config).stdout
    assert "16 x TPU v5 lite" in text and "fits TPU v5 lite: yes" in text and "step time (modelled" in text


@pytest.mark.slow
@needs_compiler
def test_the_smallest_slice_and_number_of_gpus_that_a_config_fits():
    assert re.fullmatch(
        r"v5e:2x2: yes, [\d.]+ of 16 GiB on each\n", run_plan("--fits=v5e", config="quickstart").stdout
    )
    one, two = run_plan("--fits=h100", "--config.mesh.fsdp=2", config="quickstart").stdout.splitlines()
    assert "1 x h100: no; config.mesh.data=-1, config.mesh.fsdp=2" in one
    assert re.match(r"2 x h100: yes, [\d.]+ of 80 GiB on each \(an estimate", two)


@pytest.mark.slow
@needs_compiler
def test_a_scanned_network_sends_what_the_unrolled_one_does():
    size = [
        "--config.mesh.fsdp=16",
        "--config.model.layers=8",
        "--config.model.width=512",
        "--config.model.remat=dots",
    ]
    unrolled, scanned = (
        run_plan("--topology=v5e:4x4", *size, f"--config.model.scan_layers={scan}").stdout
        for scan in (False, True)
    )
    assert mebibytes(scanned, "all-gather") == pytest.approx(mebibytes(unrolled, "all-gather"), rel=0.15)


@pytest.mark.slow
@needs_compiler
def test_several_slices_send_gradients_between_them_and_weights_within():
    """Fsdp stays within a slice, data goes across: so a device gathers no more than on one slice."""
    one, two = (
        run_plan(
            "--topology=v5e:2x2",
            f"--slices={slices}",
            "--config.mesh.fsdp=4",
            f"--config.data.batch_size={32 * slices}",
        ).stdout
        for slices in (1, 2)
    )
    assert "data 2 x fsdp 4 x tensor 1; data crosses the 2 slices" in two
    assert "ms between slices)" in two and "between slices" not in one
    assert mebibytes(two, "all-reduce between slices") > 0
    assert mebibytes(two, "all-gather") == pytest.approx(mebibytes(one, "all-gather"), rel=0.1)
