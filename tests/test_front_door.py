"""`import qt_jax`: a policy from a run, an artefact and ONNX's folder, and what it is asked."""

import json
import subprocess

import numpy as np
import pytest

import qt_jax
from qt_jax.errors import UserError
from qt_jax.export import artefact
from tests.conftest import ROOT

SENTENCE = "open the faucet"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("exported") / "policy"
    artefact.write(trained.workdir, str(folder), instructions=[SENTENCE])
    return str(folder)


@pytest.fixture(scope="module")
def policy(trained):
    return qt_jax.load_policy(trained.workdir, robots=2)


def observation(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    state = rng.normal(size=4).astype(np.float32)
    return {"observation/front": image, "observation/state": state, "prompt": SENTENCE}


def test_a_run_and_its_artefact_are_one_policy(policy, exported):
    other = qt_jax.load_policy(exported)
    for seed in range(3):
        mine, theirs = policy.infer(observation(seed)), other.infer(observation(seed))
        assert mine.keys() == theirs.keys() and mine["step"] == theirs["step"] == seed
        np.testing.assert_allclose(mine["actions"], theirs["actions"], atol=1e-5)
    values = policy.values([SENTENCE, "close the faucet"])
    assert values.shape == (2,) and 0 <= values.min() <= values.max() <= 1
    policy.reset()


def test_the_base_install_acts(exported):
    """With jax, numpy, safetensors and flatbuffers alone."""
    code = f"""
import numpy as np, qt_jax
policy = qt_jax.load_policy({exported!r})
seen = {{key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of}}
print(policy.infer(seen | {{"prompt": {SENTENCE!r}}})["actions"].shape)
"""
    python = str(ROOT / ".base" / "bin" / "python")
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(1, 4)", done.stderr[-2000:]


def test_the_base_install_says_what_a_run_needs(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    code = f"import qt_jax; qt_jax.load_policy({str(tmp_path)!r})"
    python = str(ROOT / ".base" / "bin" / "python")
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "UserError" in done.stderr and "is a run, which needs the package" in done.stderr
    assert "pip install 'qt_jax[train]'" in done.stderr


def test_episodes_of_several_robots(policy):
    first = policy.infer(observation(1) | {"session_id": "a", "request_id": 7, "return_scores": True})
    assert first["step"] == 0 and first["request_id"] == 7 and first["scores"].shape == (4, 16)
    assert policy.infer(observation(2) | {"session_id": "b"})["step"] == 0
    assert policy.infer(observation(2) | {"session_id": "a"})["step"] == 1
    policy.reset("a")
    assert policy.infer(observation(2) | {"session_id": "a"})["step"] == 0
    policy.reset("a"), policy.reset("b")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"observation/front": None}, "'observation/front'"),
        ({"observation/state": np.zeros(3)}, "'observation/state' is .*, the policy expects floating"),
        ({"observation/front": np.zeros((31, 32, 3), np.uint8)}, r"key 'observation/front' is uint8\[31,"),
        ({"prompt": ""}, "'prompt'"),
        ({"camera": np.zeros(3)}, "unknown key 'camera'; expected"),
        ({"reset": "yes"}, "'reset' is 'yes', expected bool"),
    ],
)
def test_a_bad_observation_is_an_error(policy, changed, message):
    with pytest.raises(UserError, match=message):
        policy.infer(observation() | changed)
    assert policy.infer(observation())["step"] == 0
    policy.reset()


def test_names_of_the_robots_own(trained, tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"cameras": {"front": "wrist"}, "state": ["joints"]}))
    policy = qt_jax.load_policy(trained.workdir, keys=keys)
    seen = observation()
    reply = policy.infer(
        {"wrist": seen["observation/front"], "joints": seen["observation/state"], "prompt": SENTENCE}
    )
    assert reply["step"] == 0
    with pytest.raises(UserError, match=r"key 'wrist' is uint8\[0\], the policy expects uint8\[32, 32, 3\]"):
        policy.infer(
            {"wrist": np.zeros(0, np.uint8), "joints": seen["observation/state"], "prompt": SENTENCE}
        )


def test_what_is_no_policy(trained, exported, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no policy; give the directory of a run"):
        qt_jax.load_policy(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint of step 7"):
        qt_jax.load_policy(trained.workdir, step=7)
    with pytest.raises(UserError, match=r"step=7 is of a run; .* is none"):
        qt_jax.load_policy(exported, step=7)
    with pytest.raises(UserError, match="holds no ONNX programs; add them with"):
        qt_jax.load_policy(f"{exported}/onnx")


def test_data_to_look_at(config):
    opened = qt_jax.open_dataset(config)
    assert opened.names == ("collected",) and opened.interface.action.dims == 4
    episodes = list(opened.episodes())
    assert len(episodes) == opened.count() > 0 and episodes[0].length == len(episodes[0].actions)
    batch = next(opened.segments(batch_size=4))
    assert batch.tokens.shape == (4, config.data.segment_length, 4) and batch.trainable.any()
    described = qt_jax.open_dataset(config.data.path)
    assert described.count() + described.count("validation") == 16
    with pytest.raises(UserError, match="no split 'test'; expected one of"):
        opened.count("test")


def test_what_cannot_be_evaluated(trained, tmp_path):
    config = trained.copy_and_resolve_references()
    config.workdir, config.env.cameras = str(tmp_path), ()  # no renderer is looked for
    with pytest.raises(UserError, match="'localhost:8000' is no URL of a policy server"):
        qt_jax.evaluate(config, server="localhost:8000")
    with pytest.raises(UserError, match="holds no checkpoint"):
        qt_jax.evaluate(config)
