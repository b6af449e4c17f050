"""The artefact against the checkpoint, in this process and where a robot loads it."""

import contextlib
import json
import shutil
import subprocess
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments import metaworld_mt10, quickstart, sizes
from qt_jax import agents
from qt_jax.envs import metaworld
from qt_jax.errors import UserError
from qt_jax.export import agreement, artefact, checkpoint_policy
from qt_jax.policy import artefact as artefacts
from qt_jax.policy import checksums
from qt_jax.specs import Decoding, Interface
from qt_jax.text import ENCODER
from qt_jax.training import checkpoints, setup
from qt_jax.training.assets import Assets, DatasetAssets, plain_config
from tests.conftest import ROOT, run_command
from tests.data.synthetic import unit_statistics
from tests.policy.table_policy import TablePolicy

BASE = ROOT / ".base/bin/python"


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    return artefact.write(
        trained.workdir, str(tmp_path_factory.mktemp("export") / "policy"), instructions=("open the faucet",)
    )


ROBOT = """
import importlib.util, sys
import numpy as np
from qt_jax.policy import artefact
for name in ("flax", "optax", "orbax", "tensorflow", "ml_collections", "websockets", "PIL"):
    assert importlib.util.find_spec(name) is None, name
opened = artefact.load(sys.argv[1])
policy, seen = opened.policy(2), np.load(sys.argv[2])
results = []
for t in range(len(seen["is_first"])):
    cameras = [name for name in seen.files if name.startswith("images/")]
    images = {name.removeprefix("images/"): seen[name][t] for name in cameras}
    vectors = seen["state"][t], seen["instruction"][t], seen["is_first"][t]
    results.append(policy.act(np.arange(2), images, *vectors))
did = {name: [getattr(result, name) for result in results] for name in ("actions", "scores")}
np.savez(sys.argv[3], embedding=opened.embeddings()["open the faucet"], **did)
"""


@pytest.mark.skipif(not BASE.exists(), reason="needs `make .base/.installed`")
def test_a_venv_of_the_base_dependencies_acts_as_the_checkpoint_does(trained, written, tmp_path):
    params, assets, _ = checkpoints.load_params(trained.workdir)
    policy, steps = checkpoint_policy.build(params, assets, capacity=2), []
    for t in range(8):
        steps.append(agreement.observations(policy.spec, 2, seed=t) | {"is_first": np.full(2, t == 5)})
    flat = [step["images"] for step in steps]
    arrays = {f"images/{name}": np.stack([images[name] for images in flat]) for name in flat[0]}
    arrays |= {key: np.stack([step[key] for step in steps]) for key in ("state", "instruction", "is_first")}
    np.savez(tmp_path / "seen.npz", **arrays)
    command = [
        str(BASE),
        "-c",
        ROBOT,
        str(written.path),
        str(tmp_path / "seen.npz"),
        str(tmp_path / "did.npz"),
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    did = np.load(tmp_path / "did.npz")
    expected = [policy.act(np.arange(2), **step) for step in steps]
    np.testing.assert_allclose(did["scores"], [action.scores for action in expected], atol=1e-5)
    np.testing.assert_allclose(did["actions"], [action.actions for action in expected], atol=1e-6)
    assert did["embedding"].shape == (512,)


def untrained(config) -> tuple[dict, Assets]:
    """Parameters and assets of an experiment as its training would save them at step 0, at its full size."""
    action, observation = metaworld.action_spec(config.env), metaworld.observation_spec(config.env)
    interface = setup.with_chunks(config, Interface(action, observation, 512))
    statistics = unit_statistics(observation.state_dim), unit_statistics(action.dims)
    dataset = DatasetAssets(interface, *statistics, 0.1, target_return=1.0)
    config = setup.with_value_range(config, 0.1)
    plain = plain_config(config)
    assets = Assets(interface, {"collected": dataset}, ENCODER, plain, "", {})
    ensemble = agents.make_ensemble(config, interface)
    return jax.jit(ensemble.init)(jax.random.key(0)), assets


@pytest.mark.parametrize(
    "module, agent, decode, attention, networks",
    [
        (quickstart, "q_transformer", "greedy", "per_frame", 1),
        (quickstart, "q_transformer", "beam:3", "window", 1),
        (quickstart, "bc", "greedy", "per_frame", 2),
        pytest.param(metaworld_mt10, "q_transformer", "greedy", "per_frame", 1, marks=pytest.mark.slow),
        pytest.param(quickstart, "decision_transformer", "beam:2", "window", 1, marks=pytest.mark.slow),
        (metaworld_mt10, "iql", "rank", "per_frame", 1),
        pytest.param(sizes, "rt1", "greedy", "per_frame", 1, marks=pytest.mark.slow),  # bfloat16
    ],
)
def test_every_shipped_config_exports_to_what_it_was(module, agent, decode, attention, networks, tmp_path):
    config = module.get_config(agent)
    config.model.update(attention=attention, networks=networks)
    if "timesteps" in config.agent:
        config.agent.timesteps = 5  # fewer than the steps that are compared
    params, assets = untrained(config)
    origin, decoding = {"workdir": "", "step": 0}, Decoding.read(decode)
    written = artefact.build(params, assets, str(tmp_path / "policy"), origin, decoding=decoding)
    assert written.spec.decoding == decoding
    found = written.about["agreement"]
    assert found["max_difference"] < found["tolerance"] and found["other_bins"] <= found["ties"]


def test_fixed_batches_and_what_they_do_not_hold(trained, tmp_path):
    opened = artefact.write(trained.workdir, str(tmp_path / "policy"), batches=(1, 2))
    assert opened.policy(3).buckets == (1, 2)
    inputs = agreement.observations(opened.spec, 3, seed=0) | {"is_first": np.ones(3, bool)}
    three, two = (
        opened.policy(3).act(np.arange(3), **inputs),
        opened.policy(3, (2,)).act(np.arange(3), **inputs),
    )
    np.testing.assert_allclose(three.scores, two.scores, atol=1e-5)
    with pytest.raises(UserError, match=r"batches of \[1, 2\], not \[8\]"):
        opened.policy(8, (1, 8))


def describe(folder, key, value):
    """Has policy.json say another value of the spec; a dot in the key leads further in."""
    about = json.loads((folder / "policy.json").read_text())
    *path, last = key.split(".")
    entry = about["spec"]
    for part in path:
        entry = entry[part]
    assert last in entry
    entry[last] = value
    (folder / "policy.json").write_text(json.dumps(about))


def other_parameters(folder):
    params = safetensors.numpy.load_file(folder / "params.safetensors")
    params["start"] = params["start"][..., :-1]
    safetensors.numpy.save_file(params, folder / "params.safetensors")


def swap(folder):
    one, other = (folder / "programs" / f"{part}.any.bin" for part in ("encode", "decode"))
    one.rename(folder / "programs" / "kept")
    other.rename(one)
    (folder / "programs" / "kept").rename(other)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda f: describe(f, "interface.observation.cameras", ["wrist"]),
            "encode.any.bin takes images.front uint8[32, 32, 3]",
        ),
        (
            lambda f: describe(f, "interface.observation.image_size", [64, 32]),
            "says images.front uint8[64, 32, 3]: they are of two",
        ),
        (
            lambda f: describe(f, "interface.instruction_dim", 8),
            "encode.any.bin takes instruction float32[512]",
        ),
        (lambda f: describe(f, "window", 3), "decode.any.bin takes cache.0 float32[2, "),
        (
            lambda f: describe(f, "timesteps", 9),
            "encode.any.bin takes no step, the rest of the policy says step",
        ),
        (swap, "encode.any.bin is no program 'encode'"),
        (other_parameters, "params.safetensors holds start "),
        (lambda f: (f / "programs/decode.any.bin").write_bytes(b"none"), "decode.any.bin cannot be read by"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_before_they_act(written, tmp_path, change, words):
    """Their checksums are right."""
    folder = tmp_path / "policy"
    shutil.copytree(written.path, folder)
    change(folder)
    checksums.write(folder)
    with pytest.raises(UserError) as caught:
        artefacts.load(str(folder)).policy()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_machine_that_the_programs_are_not_for_is_refused(written, monkeypatch):
    monkeypatch.setattr(jax.export, "default_export_platform", lambda: "rocm")
    with pytest.raises(UserError, match="for cpu, cuda, tpu, jax is on rocm here; set JAX_PLATFORMS=cpu"):
        written.policy()


def test_an_export_that_fails_leaves_what_was_there(trained, written, tmp_path, monkeypatch):
    folder = tmp_path / "policy"
    shutil.copytree(written.path, folder)
    monkeypatch.setattr(agreement, "compare", Mock(side_effect=UserError("they differ")))
    with pytest.raises(UserError, match="they differ"):
        artefact.write(trained.workdir, str(folder))
    artefacts.load(str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    with pytest.raises(UserError, match="policy.json exists and is no policy artefact"):
        artefact.write(trained.workdir, str(folder / "policy.json"))


def test_a_policy_that_differs_is_not_written(trained):
    """Another score on the same prefix, or another bin that is no tie, is refused."""
    params, assets, _ = checkpoints.load_params(trained.workdir)
    one, other = (
        checkpoint_policy.build(p, assets, capacity=1)
        for p in (params, jax.tree.map(lambda x: x * 1.01, params))
    )
    with pytest.raises(UserError, match="does not agree with its original"):
        agreement.compare(one, other, "float32")


def test_what_follows_a_tie_is_not_compared_in_the_order_in_which_the_network_decides():
    """The robot has x, y, g backwards: after a tie of x all may differ, before one of g nothing may."""

    def policy(x, g):
        return TablePolicy((2, 1, 0), scores=(x, (0.5, 0.0), g))

    ahead, behind = (0.5, 0.50001), (0.50001, 0.5)
    found = agreement.compare(policy(ahead, (0.1, 0.9)), policy(behind, (0.7, 0.3)), "float32")
    assert found["other_bins"] == 1.0 and found["max_difference"] < 1e-4
    with pytest.raises(UserError, match="scores differ by up to 0.6"):
        agreement.compare(policy((0.1, 0.9), ahead), policy((0.7, 0.3), behind), "float32")


NEAR, FAR, LESS = (0.25, 0.75), (0.5, 0.0), (0.5, 0.62)


@pytest.mark.parametrize(
    "scores, precision, words",
    [
        ([(0.27, 0.77), (0.52, 0.02), (0.52, 0.64)], "int8", ""),
        ([(0.27, 0.77), (0.52, 0.02), (0.52, 0.64)], "float16", "0.02 in the mean .0.005 is allowed.*100.0%"),
        ([NEAR, FAR, (0.5, 0.4)], "int8", "0.0367 in the mean .0.05 is allowed., and 66.7% of dims"),
        ([NEAR, FAR, (0.5, float("nan"))], "int8", "nan in the mean"),
    ],
)
def test_a_lower_precision_is_judged_by_its_scores_and_bins(scores, precision, words):
    one, other = TablePolicy(scores=(NEAR, FAR, LESS)), TablePolicy(scores=scores)
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
        found = agreement.compare_rounded(one, other, precision)
        assert found["mean_difference"] == pytest.approx(0.02)
        assert found["equal_bins"] == found["good_bins"] == 1.0


def test_another_bin_that_is_as_good_counts_as_good():
    """After it nothing is compared, so that it is the only dim."""
    one, other = (TablePolicy(scores=(x, FAR, LESS)) for x in ((0.5, 0.53), (0.53, 0.5)))
    found = agreement.compare_rounded(one, other, "int8")
    assert (found["equal_bins"], found["good_bins"]) == (0.0, 1.0)
    assert found["mean_difference"] == pytest.approx(0.03)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batches=1,x"], "--batches=1,x"),
        (["--dataset=other"], "not on 'other'"),
        (["--output=tests"], "exists and is no policy artefact"),
        (["--decode=best"], "decode is 'best'; give 'greedy', 'beam:4'"),
        (["--decode=rank"], "decode is 'rank', which needs action probabilities and Q"),
        (["--instructions=nowhere"], "--instructions=nowhere cannot be read"),
    ],
)
def test_the_door_says_what_is_wrong(trained, flags, message):
    result = run_command("export", f"--config.workdir={trained.workdir}", *flags, check=False)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
