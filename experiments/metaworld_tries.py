"""The settings that were tried on the pools of the diagnosis, eight a method, and what each was tried on; see diagnosis.md.

`metaworld_diagnosis.py` names a try and a cell: `--config=experiments/metaworld_diagnosis.py:q_transformer.half,few_noise,3`.
"""

HALF, MOSTLY, DROPOUT = {"data.balance.demonstrations": 0.5}, {"data.balance.demonstrations": 0.8}, {"model.dropout": 0.1}
POSITIVE, LOGISTIC = {"agent.positive_filter": True}, {"agent.value_loss": "logistic"}
SHORT, WINDOW = {"discount": 0.95}, {"model.window": 2, "data.segment_length": 6}
SUCCESSES, DEMONSTRATIONS = {"data.episodes": "successes"}, {"data.episodes": "demonstrations"}


def alpha(value: float) -> dict[str, float]:
    return {"agent.alpha": value}


def n_step(n: int) -> dict[str, int]:
    return {"agent.n_step": n, "data.segment_length": 4 + n}


def implicit(expectile: float, temperature: float) -> dict[str, float]:
    return {"agent.expectile": expectile, "agent.temperature": temperature}


def weighted(temperature: float) -> dict[str, float]:
    return {"agent.temperature": temperature}


TRIES = {
    "q_transformer": {
        "half_logistic": HALF | LOGISTIC | alpha(10.0),
        "half_logistic_n5": HALF | LOGISTIC | alpha(10.0) | n_step(5),
        "half_logistic_n10": HALF | LOGISTIC | alpha(10.0) | n_step(10),
        "half_logistic_n10_dropout": HALF | LOGISTIC | alpha(10.0) | n_step(10) | DROPOUT,
        "half_logistic_n10_mild": HALF | LOGISTIC | alpha(3.0) | n_step(10),
        "half_logistic_n10_weak": HALF | LOGISTIC | alpha(1.0) | n_step(10),
        "half_logistic_short": HALF | LOGISTIC | alpha(10.0) | SHORT,
        "half_logistic_short_n5": HALF | LOGISTIC | alpha(10.0) | SHORT | n_step(5),
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
    },
    "decision_transformer": {
        "all": {},
        "half": HALF,
        "mostly": MOSTLY,
        "dropout": DROPOUT,
        "half_dropout": HALF | DROPOUT,
        "mostly_dropout": MOSTLY | DROPOUT,
        "half_window": HALF | WINDOW,
        "dropout_window": DROPOUT | WINDOW,
    },
    "iql": {
        "mild": implicit(0.7, 0.1),
        "half": HALF | implicit(0.7, 0.1),
        "mostly": MOSTLY | implicit(0.7, 0.1),
        "half_sharp": HALF | implicit(0.9, 0.03),
        "half_dropout": HALF | DROPOUT | implicit(0.7, 0.03),
        "mostly_dropout": MOSTLY | DROPOUT | implicit(0.9, 0.03),
        "half_dropout_n10": HALF | DROPOUT | implicit(0.7, 0.03) | n_step(10),
        "half_dropout_n10_sharp": HALF | DROPOUT | implicit(0.9, 0.01) | n_step(10),
    },
    "cql": {
        "mild": alpha(0.1),
        "strong": alpha(1.0),
        "stronger": alpha(10.0),
        "half_mild": HALF | alpha(0.1),
        "half_strong": HALF | alpha(1.0),
        "half_stronger": HALF | alpha(10.0),
        "half_strong_n10": HALF | alpha(1.0) | n_step(10),
        "half_strong_dropout": HALF | alpha(1.0) | DROPOUT,
    },
    "awac": {
        "mild": weighted(0.1),
        "positive": POSITIVE | weighted(0.1),
        "half_positive": HALF | POSITIVE | weighted(0.1),
        "half_sharp": HALF | weighted(0.03),
        "half_positive_sharp": HALF | POSITIVE | weighted(0.03),
        "half_positive_dropout": HALF | POSITIVE | DROPOUT | weighted(0.1),
        "mostly_positive_dropout": MOSTLY | POSITIVE | DROPOUT | weighted(0.1),
        "half_positive_dropout_n10": HALF | POSITIVE | DROPOUT | weighted(0.1) | n_step(10),
    },
}

SYSTEMATIC = ("perception_bias=20", "wrong_task=20", "stuck_gripper=20")
CELLS = {
    "few_noise": ("demonstration=10", "noise=60"),
    "few_systematic": ("demonstration=10", *SYSTEMATIC),
}
"""What the tries were compared on: config.data.limits."""
