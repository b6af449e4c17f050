"""`make metaworld-mislabelled`: how many wrong labels `score` finds.

In the pool of the diagnosis the label of every twentieth episode is turned over, by chance, and the copy is
scored. Of the 5% of labels that are most doubtful, how many are wrong? Of the pool's seeds 0 to 2; a JSON
line a seed in experiments/results/metaworld/mislabelled.jsonl, and their means.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks import results, runs
from experiments import metaworld_diagnosis
from qt_jax.data import records

EXPERIMENT, RUN = "experiments/metaworld_diagnosis.py", "q_transformer.half_fast_ended_skip_5_mild,few_noise"
SEEDS = (0, 1, 2)
SHARE = 0.05
"""Of the labels: so many are turned over, and so many are then looked at."""
OUTPUT = results.METAWORLD / "mislabelled.jsonl"


def plant(source: Path, target: Path, seed: int) -> np.ndarray:
    """Copies a dataset with some of its labels turned over; returns which, bool [episodes]."""
    from tensorflow_datasets.proto import tf_example_pb2

    directory = records.open_directory(str(source))
    total = sum(shard.examples for shard in directory.shards)
    wrong = np.zeros(total, bool)
    wrong[np.random.default_rng(seed).choice(total, round(SHARE * total), replace=False)] = True
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*array_record*"))
    number = 0
    for place, shard in enumerate(directory.shards):
        writer = ArrayRecordWriter(str(target / shard.name), "group_size:1")
        for _, record in directory.scan(place, ""):
            example = tf_example_pb2.Example.FromString(record)
            label = example.features.feature["success"].int64_list.value
            label[0] ^= int(wrong[number])
            writer.write(example.SerializeToString(deterministic=True))
            number += 1
        writer.close()
    return wrong


def measure(seed: int, commit: str) -> dict:
    config = metaworld_diagnosis.get_config(f"{RUN},{seed}")
    pool, work = Path(config.data.path), Path(f"data/metaworld_mislabelled/{seed}")
    runs.collect(EXPERIMENT, f"{RUN},{seed}", config)
    shutil.rmtree(work, ignore_errors=True)
    wrong = plant(pool / "1.0.0", work / "wrong" / "1.0.0", seed)
    runs.command(
        "score",
        f"{EXPERIMENT}:{RUN},{seed}",
        f"--config.data.path={work}/wrong",
        "--config.data.limits=()",
        f"--config.workdir=runs/metaworld_mislabelled/{seed}",
        f"--output={work}/scored",
    )
    lines = (work / "scored/1.0.0/labels.jsonl").read_text().splitlines()
    looked_at = [json.loads(line)["number"] for line in lines[: wrong.sum()]]
    return {
        "run": f"mislabelled,{seed}",
        "episodes": len(wrong),
        "wrong": int(wrong.sum()),
        "found": int(wrong[looked_at].sum()),
        "commit": commit,
        "machine": runs.MACHINE,
    }


def main() -> None:
    commit = runs.code_commit("experiments")
    known = {row["run"] for row in results.rows(OUTPUT)}
    for seed in SEEDS:
        if f"mislabelled,{seed}" not in known:
            results.add(OUTPUT, measure(seed, commit))
    rows = results.rows(OUTPUT)
    precision = [row["found"] / row["wrong"] for row in rows]
    print(
        f"of the {SHARE:.0%} most doubtful labels {statistics.mean(precision):.0%} are wrong (seeds: "
        f"{', '.join(f'{value:.0%}' for value in precision)}); chance finds {SHARE:.0%}. As many are looked "
        "at as are wrong, so precision and recall are the same."
    )


if __name__ == "__main__":
    main()
