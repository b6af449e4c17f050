"""TFRecord -> ArrayRecord by the command: any TFDS dataset, byte for byte."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import time

import google_crc32c
import numpy as np
import pytest

from qt_jax.curation import repack
from qt_jax.errors import UserError
from tests.conftest import ROOT
from tests.training import test_storage

bucket = test_storage.bucket
COUNTS = {"train": (3, 2, 4), "held_out": (1,)}


def framed(record):
    def masked(data):
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset that is no RLDS, in TFDS' files: two splits, four files; and its records."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import example_serializer

    root = tmp_path_factory.mktemp("tfds") / "fruit" / "2.1.0"
    features = tfds.features.FeaturesDict(
        {
            "label": tfds.features.ClassLabel(names=["apple", "pear"]),
            "weights": tfds.features.Sequence(np.float64),
            "name": tfds.features.Text(),
        }
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    root.mkdir(parents=True)
    records, number, splits = {}, 0, []
    for split, shards in COUNTS.items():
        records[split] = []
        for shard, count in enumerate(shards):
            content = b""
            for _ in range(count):
                example = features.encode_example(
                    {"label": number % 2, "weights": np.arange(number), "name": f"fruit {number}"}
                )
                records[split].append(serializer.serialize_example(example))
                content += framed(records[split][-1])
                number += 1
            (root / f"fruit-{split}.tfrecord-{shard:05d}-of-{len(shards):05d}").write_bytes(content)
        splits.append(
            {
                "name": split,
                "shardLengths": [str(count) for count in shards],
                "numBytes": str(sum(map(len, records[split]))),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    features.save_config(str(root))
    features.save_metadata(str(root))
    info = {
        "name": "fruit",
        "version": "2.1.0",
        "description": "fruit",
        "fileFormat": "tfrecord",
        "splits": splits,
    }
    (root / "dataset_info.json").write_text(json.dumps(info | {"moduleName": "nowhere"}))
    return root, records


def run(source, target, environment=None):
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "qt_jax",
        "repack",
        f"--input={source}",
        f"--output={target}",
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def read(path, split):
    """The records of a repacked split, as TFDS finds them."""
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(str(path)).as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return [source[i] for i in range(len(source))]


def test_every_split_is_copied_byte_for_byte(dataset, tmp_path):
    import tensorflow_datasets as tfds

    root, records = dataset
    result = run(root.parent, tmp_path / "fruit")
    assert result.returncode == 0 and "10 records" in result.stdout, result.stderr
    assert "tensorflow.python" not in result.stderr, "imports TensorFlow"
    builder = tfds.builder_from_directory(str(tmp_path / "fruit/2.1.0"))
    assert builder.info.file_format.value == "array_record" and builder.info.features["label"].names == [
        "apple",
        "pear",
    ]
    for split, expected in records.items():
        assert read(tmp_path / "fruit/2.1.0", split) == expected
        assert tuple(builder.info.splits[split].shard_lengths) == COUNTS[split]
        assert builder.info.splits[split].num_bytes == sum(map(len, expected))
    parsed = builder.as_data_source(split="train")
    assert (
        parsed[5]["name"] == b"fruit 5"
        and parsed[5]["label"] == 1
        and list(parsed[5]["weights"]) == [0, 1, 2, 3, 4]
    )
    assert not list((tmp_path / "fruit").glob("*incomplete*"))


def damaged(change):
    def damage(root):
        file = root / "fruit-train.tfrecord-00001-of-00003"
        file.write_bytes(change(file.read_bytes()))

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (damaged(lambda content: content[:-20]), "ends within record 1"),
        (damaged(lambda content: b""), "ends after 0 of 2 records"),
        (
            damaged(lambda content: content[:20] + b"?" + content[21:]),
            "record at byte 0 has a wrong checksum",
        ),
        (damaged(lambda content: b"?" + content[1:]), "damaged header"),
        (damaged(lambda content: content * 2), "holds more than the 2 records"),
        (lambda root: (root / "fruit-train.tfrecord-00001-of-00003").unlink(), "00001-of-00003 is missing"),
        (lambda root: (root / "features.json").write_text("?"), "cannot be read"),
        (lambda root: (root / "dataset_info.json").unlink(), "holds no TFDS dataset"),
        (lambda root: (root.parent / "out/2.1.0").mkdir(parents=True), "out/2.1.0 exists; delete it"),
    ],
)
def test_error_lines(dataset, tmp_path, damage, message):
    root = tmp_path / "2.1.0"
    shutil.copytree(dataset[0], root)
    damage(root)
    with pytest.raises(UserError, match=message) as error:
        repack.repack(str(root), str(tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*/dataset_info.json"))


def test_nothing_to_repack(dataset, tmp_path):
    path, count, _ = repack.repack(str(dataset[0]), str(tmp_path))
    assert count == 10
    with pytest.raises(UserError, match="is in array_record files, expected tfrecord"):
        repack.repack(str(path), str(tmp_path / "again"))


def test_a_killed_repack_leaves_nothing_and_the_next_one_is_whole(dataset, tmp_path):
    """Killed when the first file is copied; the copies' wait makes sure that it is not the last."""
    slow = (
        "import sys, time; from qt_jax.curation import repack; from qt_jax.data import records\n"
        "scan = records.scan\n"
        "def slowly(*a, **k):\n    for record in scan(*a, **k):\n        time.sleep(0.2); yield record\n"
        "records.scan = slowly; repack.repack(*sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, str(dataset[0]), str(tmp_path / "out")],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("out/*/*-00001-of-00003")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended by itself"
    assert not list(tmp_path.glob("out/*/dataset_info.json")) and not (tmp_path / "out/2.1.0").exists()
    path, count, _ = repack.repack(str(dataset[0]), str(tmp_path / "out"))
    assert count == 10 and [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


def test_from_a_bucket_to_a_bucket(dataset, bucket, tmp_path):
    environment, files = bucket
    root, records = dataset
    files.put(str(root), "lab/fruit/2.1.0", recursive=True)
    result = run("gs://lab/fruit", "gs://lab/packed", environment)
    assert result.returncode == 0, result.stderr[-3000:]
    files.get("lab/packed", str(tmp_path / "packed"), recursive=True)
    assert read(tmp_path / "packed/2.1.0", "train") == records["train"]
    again = run("gs://lab/fruit", "gs://lab/packed", environment)
    assert again.returncode == 2 and "gs://lab/packed/2.1.0 exists; delete it" in again.stderr
