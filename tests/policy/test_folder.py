"""The artefact's folder, without programs: what was changed, lost, added or may not be read is named."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qt_jax.errors import UserError
from qt_jax.policy import artefact
from qt_jax.policy.folder import SCHEMA, Folder, seal
from qt_jax.safety import SafetyLimits
from qt_jax.specs import ActionSpec, Interface, ObservationSpec, PolicySpec, to_json
from tests.data.synthetic import unit_statistics

NETWORK = ActionSpec(("x", "y", "gripper"), (-1.0, -1.0, 0.0), (1.0, 1.0, 1.0), (16, 16, 2))
ROBOT = ActionSpec(("x", "gripper"), (-0.5, 0.0), (0.5, 1.0), (8, 2))
OBSERVATION = ObservationSpec(("front",), (32, 32), 3, "joints")
JOINT = Interface(NETWORK, OBSERVATION, 8)
SPEC = PolicySpec(Interface(ROBOT, OBSERVATION, 8), (0, 2), 4, "an encoder", "Q", 0.1)


def about() -> dict:
    described = {
        "schema": SCHEMA,
        "spec": to_json(SPEC),
        "state": unit_statistics(3).to_json(),
        "network": to_json(JOINT),
        "instructions": [],
    }
    return json.loads(json.dumps(described))


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "policy"
    (path / "programs").mkdir(parents=True)
    (path / "params.safetensors").write_bytes(b"parameters")
    (path / "programs" / "encode.any.bin").write_bytes(b"a program")
    seal(path, about())
    return path


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Folder.open(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_sealed_is_opened_and_sha256sum_agrees(folder):
    opened = Folder.open(str(folder))
    assert (opened.spec, opened.network, opened.statistics) == (SPEC, JOINT, unit_statistics(3))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    (folder / ".DS_Store").write_bytes(b"a file browser was here")
    Folder.open(str(folder))


def test_limits_come_back_and_none_leave_the_description_as_it_was(folder):
    dims = {"x": {"kind": "delta", "entry": 2, "box": [-1, 1], "stop": 0}, "gripper": {"stop": 1}}
    limits = SafetyLimits.from_json({"dims": dims, "on_stale": "stop", "stale_ms": 50})
    assert "limits" not in artefact.describe(SPEC, unit_statistics(3))["spec"]
    described = artefact.describe(dataclasses.replace(SPEC, limits=limits), unit_statistics(3))
    seal(folder, about() | described)
    assert Folder.open(str(folder)).spec.limits == limits
    described["spec"]["limits"]["dims"]["x"]["entry"] = 3
    seal(folder, about() | described)
    assert "policy.json: Limits of 'x': entry is 3, the state has 3. Export the policy again." in refused(
        folder
    )


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("params.safetensors", b"Parameters", "params.safetensors was changed or damaged (sha256 "),
        ("params.safetensors", b"param", "params.safetensors was changed or damaged (sha256 "),
        ("params.safetensors", b"", "params.safetensors was changed or damaged (it is empty); copy it again"),
        ("params.safetensors", None, "params.safetensors is missing; copy the whole folder"),
        ("programs/encode.any.bin", None, "encode.any.bin is missing"),
        (
            "programs/decode.any.bin",
            b"new",
            "decode.any.bin is no part of the policy: SHA256SUMS lacks it; move it away",
        ),
        (
            "policy.json",
            json.dumps(about()).encode(),
            "policy.json was changed or damaged (sha256 ",
        ),  # other white space
        ("policy.json", b"", "policy.json was changed or damaged (Expecting value"),
        ("policy.json", b'{"schema"', "policy.json was changed or damaged"),
        ("policy.json", b"\xff\xfe", "policy.json was changed or damaged"),
        (
            "policy.json",
            b"[]",
            "another version of qt_jax (schema None, this version reads 6); export the",
        ),
        (
            "policy.json",
            b'{"schema": 4}',
            "another version of qt_jax (schema 4, this version reads 6); export the",
        ),
        (
            "policy.json",
            b'{"schema": 7}',
            "a newer version of qt_jax (schema 7, this version reads 6); install the version that wrote it",
        ),
        ("policy.json", None, "holds no policy.json; give the folder that `python -m qt_jax export` wrote."),
        ("SHA256SUMS", None, "SHA256SUMS is missing: the export or the copy did not end"),
        ("SHA256SUMS", b"", "SHA256SUMS was changed or damaged (line 1)"),
        ("SHA256SUMS", b"\xff", "SHA256SUMS was changed or damaged"),
        ("SHA256SUMS", b"f" * 64 + b"  policy.json\nhalf a li", "SHA256SUMS was changed or damaged (line 2)"),
    ],
)
def test_a_file_that_is_not_as_it_was_exported_is_named(folder, file, content, words):
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_bytes(content)
    assert words in refused(folder)


PROGRAMS = ("programs/encode.any.bin", "programs/decode.any.bin")
FILES = ("params.safetensors", "instructions.safetensors", *PROGRAMS)


@pytest.mark.parametrize("lost", FILES)
def test_a_file_that_the_checksums_lack_too_is_missed_before_the_policy_acts(folder, lost):
    """As after a copy that ended early, of them as well."""
    for file in {*FILES} - {lost}:
        (folder / file).touch()
    (folder / lost).unlink(missing_ok=True)
    seal(folder, about() | {"batches": []})
    with pytest.raises(UserError, match=f"{lost} is missing; copy the whole folder"):
        artefact.load(str(folder))


@pytest.mark.parametrize("file", ["policy.json", "params.safetensors", "SHA256SUMS"])
def test_a_folder_in_the_place_of_a_file_is_named(folder, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    assert f"{file} cannot be read (Is a directory); copy the folder again." in refused(folder)


@pytest.mark.parametrize("file", ["policy.json", "params.safetensors", "SHA256SUMS"])
def test_what_this_account_may_not_read_is_named_with_the_remedy(folder, file, monkeypatch):
    opened = Path.open

    def guarded(path, *arguments, **named):
        if path == folder / file:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", guarded)
    assert (
        f"{file} cannot be read (Permission denied); its owner lets others read it: `chmod -R a+rX {folder}`"
        in refused(folder)
    )


@pytest.mark.parametrize(
    "umask, file, inside", [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o077, 0o600, 0o700)]
)
def test_every_file_has_the_mode_that_the_umask_gives_whoever_wrote_it(tmp_path, umask, file, inside):
    before = os.umask(umask)
    try:
        folder = tmp_path / "policy"
        (folder / "onnx").mkdir(parents=True)
        for number, mode in enumerate((0o600, 0o666)):  # as a library left them
            (folder / f"onnx/{number}").touch()
            (folder / f"onnx/{number}").chmod(mode)
        seal(folder, about())
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert len(modes) == 6 and modes == {path: inside if path.is_dir() else file for path in modes}


@pytest.mark.parametrize(
    "keys, value, words",
    [
        (("interface", "action", "low"), [-0.5, float("nan")], "'gripper' has low nan >= high 1.0"),
        (
            ("interface", "action", "low"),
            [float("-inf"), 0.0],
            "'x' has bounds -inf and 0.5; give finite numbers",
        ),
        (("interface", "action", "high"), [-0.5, 1.0], "'x' has low -0.5 >= high -0.5"),
        (("interface", "action", "high"), ["0.5", 1.0], "lacks what a policy needs"),
        (("interface", "action", "bins"), [8], "lengths 2, 2, 2, 1"),
        (("interface", "action", "bins"), [1, 2], "'x' has 1 bins"),
        (("interface", "action", "bins"), [7.5, 2], "'x' has 7.5 bins; give at least 2, a whole number"),
        (("interface", "action", "bins"), [32, 2], "bins [32, 2], the network [16, 16, 2]"),
        (("interface", "action", "names"), ["x", "z"], "dims ['z'], the network has ['x', 'y', 'gripper']"),
        (("network_dims",), [2, 0], "network_dims are [2, 0], expected [0, 2]"),
        (("network_dims",), [0, 7], "network_dims are [0, 7], expected [0, 2]"),
        (("network_dims",), [0], "network_dims are (0,); give 2 dims"),
        (("network_dims",), [0, 0], "each once"),
        (("timesteps",), -1, "timesteps is -1; give 0 or more, a whole number."),
        (("dt",), 0.0, "dt is 0.0"),
        (("dt",), float("inf"), "dt is inf"),
        (("window",), 0, "window is 0"),
        (("interface", "instruction_dim"), -1, "instruction_dim is -1"),
        (("text_encoder",), "", "text_encoder is ''"),
        (("text_encoder",), None, "text_encoder is None"),
        (("interface", "observation", "state_dim"), 4, "statistics have lengths [3], expected 4"),
        (("interface", "observation", "joints"), 4, "lacks what a policy needs"),
        (("decoding",), None, "lacks what a policy needs"),
        (("decoding", "count"), 2, "Decoding: kind is 'greedy', count 2, temperature 1.0; give 'greedy'"),
    ],
)
def test_a_description_that_is_no_policy_s_is_refused_though_its_checksum_is_right(
    folder, keys, value, words
):
    described = about()
    *path, last = keys
    entry = described["spec"]
    for key in path:
        entry = entry[key]
    entry[last] = value
    seal(folder, described)
    message = refused(folder)
    assert words in message and str(folder / "policy.json") in message and "xport the policy again" in message


@pytest.mark.parametrize("key", ["spec", "state", "network"])
def test_a_description_that_lacks_a_part_is_refused(folder, key):
    described = about()
    del described[key]
    seal(folder, described)
    assert f"policy.json lacks what a policy needs (KeyError('{key}'))" in refused(folder)


def test_statistics_that_are_no_numbers_are_refused(folder):
    values = unit_statistics(3)
    object.__setattr__(values, "mean", (float("nan"), 0.0, 0.0))
    seal(folder, about() | {"state": values.to_json()})
    assert "statistics hold NaN or Inf" in refused(folder)


def test_a_robot_without_safetensors_sends_embeddings(folder, monkeypatch):
    """Unless sentences were exported: then the package is named."""
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert Folder.open(str(folder)).embeddings() == {}
    seal(folder, about() | {"instructions": ["open the drawer"]})
    with pytest.raises(UserError, match="need safetensors .*pip install safetensors"):
        Folder.open(str(folder)).embeddings()
