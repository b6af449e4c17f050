"""Six runs of the tests' tiny experiment."""

CONFIG = "tests/tiny.py"


def overrides():
    for alpha in (1.0, 3.0, 10.0):
        for seed in (0, 1):
            yield {"agent.alpha": alpha, "seed": seed}
