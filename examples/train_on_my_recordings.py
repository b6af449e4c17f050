"""Trains a policy on recordings of your own and asks it for an action.

First make a dataset of the recordings (docs/data.md):

    python -m qt_jax convert --input=RECORDINGS --format=lerobot --output=data/mine
    python examples/train_on_my_recordings.py data/mine runs/mine
"""

import sys

import numpy as np

import qt_jax
from qt_jax.training.benchmarked import benchmarked_config


def main(path: str, workdir: str, **settings) -> None:
    config = benchmarked_config("q_transformer")
    config.data.path = path
    config.data.action_bounds = "quantiles"  # bins from the 1% to the 99% quantile of your actions
    config.workdir = workdir
    config.update_from_flattened_dict(settings)

    dataset = qt_jax.open_dataset(config)
    episode = next(dataset.episodes())
    print(f"{dataset.count()} episodes; the first: {episode.instruction!r}, {episode.length} steps")

    qt_jax.train(config)

    policy = qt_jax.load_policy(workdir)
    arrays = {key: form for key, form in policy.observation.items() if "shape" in form}
    observation = {key: np.zeros(form["shape"], form["dtype"]) for key, form in arrays.items()}
    print("action:", policy.infer(observation | {"prompt": episode.instruction})["actions"][0])


if __name__ == "__main__":
    main(*sys.argv[1:3])
