"""Acts with the best of 16 proposals of another policy's server, which a policy of ours ranks.

    python -m qt_jax export --config=experiments/quickstart.py --candidates=16
    python -m qt_jax serve --artefact=runs/quickstart/q_transformer/policy --port=8000
    python examples/rank_proposals.py ws://PROPOSER:PORT ws://127.0.0.1:8000 "open the faucet"

The proposer is any server of openpi's protocol that draws a new action whenever it is asked. With a fourth
argument, a file, its first proposal always acts, and the file says which one would have.
"""

import sys

import numpy as np

from qt_jax.serving import ranked
from qt_jax.serving.client import Client


def main(proposer: str, ranker: str, instruction: str, shadow: str | None = None, steps: int = 20) -> None:
    with Client(proposer) as client, Client(ranker) as judge:
        expected = judge.metadata["observation"]
        arrays = {key: form for key, form in expected.items() if "shape" in form}
        with ranked(client, judge, k=min(16, judge.candidates), shadow=shadow) as policy:
            policy.reset()  # at the beginning of each episode
            for _ in range(steps):
                observation = {key: np.zeros(form["shape"], form["dtype"]) for key, form in arrays.items()}
                reply = policy.infer(observation | {"prompt": instruction})
                for action in reply["actions"]:
                    print(np.round(action, 3))
            print(policy.metadata["ranked"])


if __name__ == "__main__":
    main(*sys.argv[1:5])
