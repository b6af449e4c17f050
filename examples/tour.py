"""Shows everything once, in a quarter of an hour on two cores; each command is printed, to be copied.

    python examples/tour.py

It collects, looks at the data, trains, evaluates with a picture of Q, ranks actions, improves by its own
experience, exports, and acts with what was exported. What it leaves is below data/tour and runs/tour.
"""

import subprocess
import sys
import time

import numpy as np

import qt_jax
from qt_jax.policy.loaded import LoadedPolicy

CONFIG = "experiments/tour.py"
RUN = "runs/tour/q_transformer"


def command(why: str, name: str, config: str, *flags: str) -> None:
    """Prints a command of qt_jax and runs it."""
    arguments = [name, f"--config={config}", *flags]
    print(f"\n# {why}\npython -m qt_jax {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "qt_jax", *arguments], check=True)


def blank(policy: LoadedPolicy, instruction: str) -> dict:
    """Returns an observation of zeros."""
    arrays = {key: form for key, form in policy.observation.items() if "shape" in form}
    seen = {key: np.zeros(form["shape"], form["dtype"]) for key, form in arrays.items()}
    return seen | {"prompt": instruction}


def rank(run: str, instruction: str) -> None:
    """Asks a policy what it thinks of eight actions, drawn by chance."""
    policy = qt_jax.load_policy(run, candidates=8)
    proposals = np.random.default_rng(0).uniform(-1, 1, (8, 1, policy.spec.interface.action.dims))
    found = policy.rank(blank(policy, instruction), proposals)
    print(f"\n# What the policy thinks of eight actions in a state of zeros, for {instruction!r}")
    for number in found["order"]:
        print(f"Q {found['q'][number]:.2f}  {np.round(proposals[number, 0], 2)}")


def act(artefact: str, instruction: str, steps: int = 50) -> None:
    """Measures how long an action takes."""
    policy = qt_jax.load_policy(artefact)
    seen, times = blank(policy, instruction), []
    for _ in range(steps):
        began = time.perf_counter()
        action = policy.infer(seen)["actions"][0]
        times.append(1000 * (time.perf_counter() - began))
    print(f"\n# The exported policy acts: {np.round(action, 2)}, {np.median(times):.1f} ms an action")


def main(config: str = CONFIG, *flags: str) -> None:
    imitation = f"{config}:bc"
    command("Collect people's demonstrations and a robot's own episodes", "collect", config, *flags)
    command("Look at them: a page with counts, actions and what is odd", "inspect", config, *flags)
    command("Train behaviour cloning on the successes", "train", imitation, *flags)
    command("Roll it out", "evaluate", imitation, *flags)
    command("Train Q-Transformer on all of it", "train", config, *flags)
    command("Roll it out beside the other; report.html draws its Q", "evaluate", config, *flags)
    rank(RUN, "open the drawer")
    command("Let it act, and train on with what it did, twice", "improve", config, *flags)
    command("Export it for a robot", "export", config, *flags)
    act(f"{RUN}/policy", "open the drawer")
    print(f"\nLook at {RUN}/report.html and {RUN}/improve/improve.html. A real robot: docs/robot.md.")


if __name__ == "__main__":
    main(*sys.argv[1:])
