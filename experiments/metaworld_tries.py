"""The settings that were tried on the pools of the diagnosis, six a method, and what each was tried on; see diagnosis.md.

`metaworld_diagnosis.py` names a try and a cell: `--config=experiments/metaworld_diagnosis.py:q_transformer.half,few_noise,3`.
"""

TRIES = {
    "q_transformer": {
        "half": {"data.balance.demonstrations": 0.5, "agent.alpha": 10.0},
        "strong": {"data.balance.demonstrations": 0.5, "agent.alpha": 100.0},
        "skip": {"data.balance.demonstrations": 0.5, "agent.alpha": 10.0, "agent.backup": "skip"},
        "bins32": {"data.balance.demonstrations": 0.5, "agent.alpha": 4.9, "data.bins": 32},
        "dropout": {"data.balance.demonstrations": 0.5, "agent.alpha": 10.0, "model.dropout": 0.1},
        "histogram": {"data.balance.demonstrations": 0.5, "agent.alpha": 10.0, "agent.value_loss": "histogram", "model.atoms": 51},
    },
    "bc": {
        "all": {},
        "successes": {"data.episodes": "successes"},
        "demonstrations": {"data.episodes": "demonstrations"},
        "half": {"data.episodes": "successes", "data.balance.demonstrations": 0.5},
        "dropout": {"data.episodes": "demonstrations", "model.dropout": 0.1},
        "bins32": {"data.episodes": "demonstrations", "data.bins": 32},
    },
    "decision_transformer": {
        "all": {},
        "half": {"data.balance.demonstrations": 0.5},
        "dropout": {"model.dropout": 0.1},
        "half_dropout": {"data.balance.demonstrations": 0.5, "model.dropout": 0.1},
        "half_bins32": {"data.balance.demonstrations": 0.5, "data.bins": 32},
        "mostly": {"data.balance.demonstrations": 0.8},
    },
    "iql": {
        "mild": {"agent.expectile": 0.7, "agent.temperature": 0.1},
        "sharp": {"agent.expectile": 0.9, "agent.temperature": 0.03},
        "half": {"data.balance.demonstrations": 0.5, "agent.expectile": 0.7, "agent.temperature": 0.1},
        "half_sharp": {"data.balance.demonstrations": 0.5, "agent.expectile": 0.9, "agent.temperature": 0.03},
        "half_sharper": {"data.balance.demonstrations": 0.5, "agent.expectile": 0.9, "agent.temperature": 0.01},
        "half_dropout": {"data.balance.demonstrations": 0.5, "agent.temperature": 0.03, "model.dropout": 0.1},
    },
    "cql": {
        "weak": {"agent.alpha": 0.01},
        "mild": {"agent.alpha": 0.1},
        "strong": {"agent.alpha": 1.0},
        "half_weak": {"data.balance.demonstrations": 0.5, "agent.alpha": 0.01},
        "half": {"data.balance.demonstrations": 0.5, "agent.alpha": 0.1},
        "half_strong": {"data.balance.demonstrations": 0.5, "agent.alpha": 1.0},
    },
    "awac": {
        "mild": {"agent.temperature": 0.1},
        "sharp": {"agent.temperature": 0.03},
        "positive": {"agent.temperature": 0.1, "agent.positive_filter": True},
        "half": {"data.balance.demonstrations": 0.5, "agent.temperature": 0.1},
        "half_sharp": {"data.balance.demonstrations": 0.5, "agent.temperature": 0.03},
        "half_positive": {"data.balance.demonstrations": 0.5, "agent.temperature": 0.1, "agent.positive_filter": True},
    },
}

SYSTEMATIC = ("perception_bias=20", "wrong_task=20", "stuck_gripper=20")
CELLS = {
    "few_noise": ("demonstration=10", "noise=60"),
    "few_systematic": ("demonstration=10", *SYSTEMATIC),
}
"""What the tries were compared on: config.data.limits."""
