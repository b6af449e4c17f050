"""`make bench-quickstart`: the quickstart's two methods over several training seeds on the quickstart's data.

Writes experiments/results/bench_quickstart.json: each seed's evaluation, and the mean over seeds with a 95% t
interval within [0, 1].
"""

from __future__ import annotations

from pathlib import Path

from scipy import stats

from benchmarks import runs

EXPERIMENT = "experiments/quickstart.py"
RESULTS = Path("experiments/results/bench_quickstart.json")
METHODS = {"Q-Transformer": "q_transformer", "BC on successes": "bc"}
SEEDS = (0, 1, 2)


def main() -> None:
    commit = runs.code_commit(EXPERIMENT)
    rows: dict[str, dict[str, dict]] = {method: {} for method in METHODS}
    for seed in SEEDS:
        for method, agent in METHODS.items():
            workdir = Path("runs/bench_quickstart") / commit / f"{agent}_{seed}"
            rows[method][str(seed)] = runs.train_and_evaluate(
                f"{EXPERIMENT}:{agent}", workdir, f"--config.seed={seed}"
            )
    summary = {}
    for method, by_seed in rows.items():
        rates = [row["overall"]["success"] for row in by_seed.values()]
        interval = stats.ttest_1samp(rates, 0.0).confidence_interval(0.95)
        low, high = max(0.0, interval.low), min(1.0, interval.high)
        summary[method] = {"mean": sum(rates) / len(rates), "low": low, "high": high, "seeds": rates}
    runs.write(RESULTS, commit=commit, summary=summary, methods=rows)
    for method, row in summary.items():
        seeds = ", ".join(f"{rate:.0%}" for rate in row["seeds"])
        print(f"{method:20}{row['mean']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]  seeds {seeds}")


if __name__ == "__main__":
    main()
