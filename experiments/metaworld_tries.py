"""The settings that were tried on the pools of the diagnosis, and the data that each was tried on.

Each method has eleven tries: eight, then three around the best of them. Later came four more, after a review,
the balance EVEN, and four of behaviour cloning of everything. `SEED_0` were tried on one seed alone. The
first eleven of IQL and AWAC with dropout were run at commits before afe9472, where the values had dropout
too. Results: experiments/diagnosis.md and experiments/results/metaworld/tries.md.

`metaworld_diagnosis.py` takes a try, a cell and a seed:
`--config=experiments/metaworld_diagnosis.py:q_transformer.half,few_noise,3`.
"""

HALF, MOSTLY, SOME, FEW = ({"data.balance.demonstrations": share} for share in (0.5, 0.8, 0.3, 0.2))
FEW_FAILURES = {"data.balance.failures": 0.25}
DROPOUT, MORE_DROPOUT = ({"model.dropout": rate} for rate in (0.1, 0.2))
BINS_32 = {"data.bins": 32}
POSITIVE, LOGISTIC = {"agent.positive_filter": True}, {"agent.value_loss": "logistic"}
HISTOGRAM = {"agent.value_loss": "histogram"}
SUCCESSES, DEMONSTRATIONS = {"data.episodes": "successes"}, {"data.episodes": "demonstrations"}
FAST, FASTER = {"agent.target_rate": 0.03}, {"agent.target_rate": 0.1}
ENDED = {"data.time_limits": "terminal"}
FAST_ENDED = FAST | ENDED
STEPS_5 = {"agent.n_step": 5, "data.segment_length": 9}
SKIP_5 = STEPS_5 | {"agent.backup": "skip_first_dim"}
MONTE_CARLO = {"agent.monte_carlo": True}
FAST_ENDED_DROPOUT_5 = FAST_ENDED | DROPOUT | STEPS_5
POSITIVE_5 = HALF | POSITIVE | FAST_ENDED | SKIP_5
SHORT = {"discount": 0.95}


def kinds(demonstrations: float, successes: float) -> dict[str, float]:
    """Sets the shares of a batch; the rest are failures."""
    return {"data.balance.demonstrations": demonstrations, "data.balance.successes": successes}


EVEN, MANY_SUCCESSES = kinds(0.35, 0.35), kinds(0.25, 0.5)


def alpha(value: float) -> dict[str, float]:
    return {"agent.alpha": value}


def implicit(expectile: float, temperature: float) -> dict[str, float]:
    return {"agent.expectile": expectile, "agent.temperature": temperature}


def weighted(temperature: float) -> dict[str, float]:
    return {"agent.temperature": temperature}


MILD = LOGISTIC | alpha(3.0)


def softmax(alpha: float, temperature: float) -> dict[str, float]:
    return {"agent.alpha": alpha, "agent.temperature": temperature}


def window(frames: int) -> dict[str, int]:
    """Sets the window, and segments with as many trainable steps as with one frame."""
    return {"model.window": frames, "data.segment_length": 4 + frames}


TRIES = {
    "q_transformer": {
        "half": HALF | LOGISTIC | alpha(10.0),
        "half_fast": HALF | LOGISTIC | alpha(10.0) | FAST,
        "half_fast_ended": HALF | LOGISTIC | alpha(10.0) | FAST_ENDED,
        "half_faster_ended": HALF | LOGISTIC | alpha(10.0) | FASTER | ENDED,
        "half_fast_ended_mild": HALF | MILD | FAST_ENDED,
        "half_fast_ended_dropout": HALF | LOGISTIC | alpha(10.0) | FAST_ENDED | DROPOUT,
        "half_fast_ended_skip_5": HALF | LOGISTIC | alpha(10.0) | FAST_ENDED | SKIP_5,
        "half_fast_ended_skip_5_mild": HALF | MILD | FAST_ENDED | SKIP_5,
        "some_fast_ended_skip_5_mild": SOME | MILD | FAST_ENDED | SKIP_5,
        "half_fast_ended_skip_5_mild_short": HALF | MILD | FAST_ENDED | SKIP_5 | SHORT,
        "half_fast_ended_skip_5_milder": HALF | LOGISTIC | alpha(1.0) | FAST_ENDED | SKIP_5,
        "even_fast_ended_skip_5_mild": EVEN | MILD | FAST_ENDED | SKIP_5,
        "many_successes_fast_ended_skip_5_mild": MANY_SUCCESSES | MILD | FAST_ENDED | SKIP_5,
        "few_failures_fast_ended_skip_5_mild": FEW_FAILURES | MILD | FAST_ENDED | SKIP_5,
        "half_fast_ended_skip_5_mild_histogram": HALF | HISTOGRAM | alpha(3.0) | FAST_ENDED | SKIP_5,
    },
    "bc": {
        "all": {},
        "successes": SUCCESSES,
        "successes_dropout": SUCCESSES | DROPOUT,
        "demonstrations": DEMONSTRATIONS,
        "demonstrations_dropout": DEMONSTRATIONS | DROPOUT,
        "half": SUCCESSES | HALF,
        "half_dropout": SUCCESSES | HALF | DROPOUT,
        "mostly_dropout": SUCCESSES | MOSTLY | DROPOUT,
        "successes_more_dropout": SUCCESSES | MORE_DROPOUT,
        "successes_dropout_bins_32": SUCCESSES | DROPOUT | BINS_32,
        "some_dropout": SUCCESSES | SOME | DROPOUT,
        "half_more_dropout": SUCCESSES | HALF | MORE_DROPOUT,
        "mostly_more_dropout": SUCCESSES | MOSTLY | MORE_DROPOUT,
        "successes_dropout_window_2": SUCCESSES | DROPOUT | window(2),
        "successes_dropout_window_4": SUCCESSES | DROPOUT | window(4),
        "all_dropout": DROPOUT,
        "all_half": HALF,
        "all_half_dropout": HALF | DROPOUT,
        "all_mostly_dropout": MOSTLY | DROPOUT,
    },
    "decision_transformer": {
        "all": {},
        "some": SOME,
        "half": HALF,
        "mostly": MOSTLY,
        "dropout": DROPOUT,
        "some_dropout": SOME | DROPOUT,
        "half_dropout": HALF | DROPOUT,
        "mostly_dropout": MOSTLY | DROPOUT,
        "few_dropout": FEW | DROPOUT,
        "some_more_dropout": SOME | MORE_DROPOUT,
        "few": FEW,
        "some_dropout_window_2": SOME | DROPOUT | window(2),
        "some_dropout_window_4": SOME | DROPOUT | window(4),
        "some_window_2": SOME | window(2),
        "half_dropout_window_4": HALF | DROPOUT | window(4),
        "even_dropout": EVEN | DROPOUT,
    },
    "iql": {
        "mild": implicit(0.7, 0.1),
        "half": HALF | implicit(0.7, 0.1),
        "half_fast": HALF | FAST | implicit(0.7, 0.03),
        "half_fast_sharp": HALF | FAST | implicit(0.9, 0.03),
        "mostly_fast": MOSTLY | FAST | implicit(0.7, 0.03),
        "half_dropout": HALF | DROPOUT | implicit(0.7, 0.1),
        "half_fast_ended_dropout": HALF | FAST_ENDED | DROPOUT | implicit(0.7, 0.03),
        "mostly_fast_ended_dropout": MOSTLY | FAST_ENDED | DROPOUT | implicit(0.7, 0.1),
        "mostly_fast_ended_dropout_short": MOSTLY | FAST_ENDED | DROPOUT | implicit(0.7, 0.1) | SHORT,
        "mostly_dropout_median": MOSTLY | DROPOUT | implicit(0.5, 0.1),
        "mostly_dropout_milder": MOSTLY | DROPOUT | implicit(0.7, 0.3),
        "mostly_fast_ended_actor_dropout_short": MOSTLY | FAST_ENDED | DROPOUT | implicit(0.7, 0.1) | SHORT,
        "mostly_fast_ended_actor_dropout_5": MOSTLY | FAST_ENDED_DROPOUT_5 | implicit(0.7, 0.1),
        "half_fast_ended_actor_dropout_5": HALF | FAST_ENDED_DROPOUT_5 | implicit(0.7, 0.1),
        "mostly_fast_ended_actor_dropout_5_sharp": MOSTLY | FAST_ENDED_DROPOUT_5 | implicit(0.7, 0.03),
        "even_fast_ended_actor_dropout_5": EVEN | FAST_ENDED_DROPOUT_5 | implicit(0.7, 0.1),
    },
    "cql": {
        "mild": softmax(0.1, 1.0),
        "half_mild": HALF | softmax(0.1, 1.0),
        "half": HALF | softmax(1.0, 1.0),
        "half_strong": HALF | softmax(10.0, 1.0),
        "half_fast": HALF | FAST | softmax(1.0, 1.0),
        "half_fast_ended": HALF | FAST_ENDED | softmax(1.0, 1.0),
        "half_fast_ended_strong": HALF | FAST_ENDED | softmax(10.0, 1.0),
        "half_fast_ended_dropout": HALF | FAST_ENDED | DROPOUT | softmax(1.0, 1.0),
        "half_fast_short": HALF | FAST | softmax(1.0, 1.0) | SHORT,
        "half_fast_skip_5": HALF | FAST | SKIP_5 | softmax(1.0, 1.0),
        "half_fast_logistic": HALF | FAST | LOGISTIC | softmax(1.0, 1.0),
        "half_fast_ended_cold": HALF | FAST_ENDED | softmax(0.1, 0.03),
        "half_fast_ended_skip_5_cold": HALF | FAST_ENDED | SKIP_5 | softmax(0.1, 0.03),
        "half_fast_ended_skip_5_colder": HALF | FAST_ENDED | SKIP_5 | softmax(0.1, 0.01),
        "half_fast_ended_skip_5_cold_strong": HALF | FAST_ENDED | SKIP_5 | softmax(1.0, 0.03),
        "even_fast_ended_skip_5_cold": EVEN | FAST_ENDED | SKIP_5 | softmax(0.1, 0.03),
    },
    "awac": {
        "mild": weighted(0.1),
        "half_sharp": HALF | weighted(0.03),
        "half_positive": HALF | POSITIVE | weighted(0.1),
        "half_positive_fast_ended": HALF | POSITIVE | FAST_ENDED | weighted(0.1),
        "half_positive_fast_ended_sharp": HALF | POSITIVE | FAST_ENDED | weighted(0.03),
        "half_positive_dropout": HALF | POSITIVE | DROPOUT | weighted(0.1),
        "half_positive_fast_ended_dropout": HALF | POSITIVE | FAST_ENDED | DROPOUT | weighted(0.1),
        "mostly_positive_fast_ended_dropout": MOSTLY | POSITIVE | FAST_ENDED | DROPOUT | weighted(0.1),
        "half_positive_fast_ended_short": HALF | POSITIVE | FAST_ENDED | weighted(0.1) | SHORT,
        "half_positive_fast_ended_mild": HALF | POSITIVE | FAST_ENDED | weighted(0.3),
        "some_positive_fast_ended": SOME | POSITIVE | FAST_ENDED | weighted(0.1),
        "half_positive_fast_ended_skip_5": POSITIVE_5 | weighted(0.1),
        "half_positive_fast_ended_skip_5_monte_carlo": POSITIVE_5 | MONTE_CARLO | weighted(0.1),
        "half_positive_fast_ended_monte_carlo": HALF | POSITIVE | FAST_ENDED | MONTE_CARLO | weighted(0.1),
        "half_positive_fast_ended_skip_5_actor_dropout": POSITIVE_5 | DROPOUT | weighted(0.1),
        "even_positive_fast_ended_monte_carlo": EVEN | POSITIVE | FAST_ENDED | MONTE_CARLO | weighted(0.1),
    },
}

SEED_0 = (
    "bc.all_dropout",
    "bc.all_half",
    "bc.all_half_dropout",
    "bc.all_mostly_dropout",
    "bc.half_more_dropout",
    "bc.mostly_more_dropout",
    "bc.successes_dropout_window_2",
    "bc.successes_dropout_window_4",
    "decision_transformer.some_dropout_window_2",
    "decision_transformer.some_dropout_window_4",
    "decision_transformer.some_window_2",
    "decision_transformer.half_dropout_window_4",
    "iql.mostly_fast_ended_actor_dropout_short",
    "iql.mostly_fast_ended_actor_dropout_5",
    "iql.mostly_fast_ended_actor_dropout_5_sharp",
    "cql.half_fast_ended_cold",
    "cql.half_fast_ended_skip_5_colder",
    "awac.half_positive_fast_ended_skip_5",
    "awac.half_positive_fast_ended_skip_5_actor_dropout",
    "q_transformer.even_fast_ended_skip_5_mild",
    "q_transformer.many_successes_fast_ended_skip_5_mild",
    "q_transformer.few_failures_fast_ended_skip_5_mild",
    "q_transformer.half_fast_ended_skip_5_mild_histogram",
    "iql.even_fast_ended_actor_dropout_5",
    "cql.even_fast_ended_skip_5_cold",
)
"""Tries that were run on seed 0 alone.

Of the last tries of a method they are all but the better two of those that are above its best on that seed.
"""

PROBES = {"decision_transformer.some_dropout_successes": SOME | DROPOUT | SUCCESSES}
"""Runs that help to understand the tries, and from which nothing is chosen."""

SYSTEMATIC = ("perception_bias=20", "wrong_task=20", "stuck_gripper=20")
CELLS = {
    "few_noise": ("demonstration=10", "noise=60"),
    "few_systematic": ("demonstration=10", *SYSTEMATIC),
}
"""The data on which the tries were compared, {cell: config.data.limits}."""
