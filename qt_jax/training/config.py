"""One experiment's settings, and their check before anything starts."""

from __future__ import annotations

from typing import Any

import jax
import ml_collections

from qt_jax import agents, losses
from qt_jax.data.episodes import FILTERS
from qt_jax.errors import UserError
from qt_jax.models import q_transformer as model


def default_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    """Defaults of this project for training; an experiment adds `env`, `collect` and `evaluate`, and overrides."""
    config = ml_collections.ConfigDict()
    config.workdir = "runs/default"
    config.seed = 0
    config.discount = 0.98  # per dt_ref seconds; the ONE discount of data, loss and reports
    config.dt_ref = 0.0625
    config.value_range = (0.0, 1.0)  # least and greatest attainable return
    config.agent = agents.get(agent).get_config()
    config.model = model.laptop()
    config.data = ml_collections.ConfigDict()
    config.data.path = "data/default"
    config.data.episodes = "all"
    config.data.validation_fraction = 0.05
    config.data.segment_length = 8
    config.data.batch_size = 32
    config.data.demonstration_share = 0.0  # of each batch, in (0, 1); 0: every segment equally often
    config.data.read_threads = 4
    config.data.random_shift = 0  # pixels; image augmentation inside the train step
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 200
    config.optimizer.final_learning_rate = 0.1  # share of learning_rate at the last step (cosine)
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.train = ml_collections.ConfigDict()
    config.train.steps = 1000
    config.train.log_every = 50
    config.train.validate_every = 500
    config.train.checkpoint_every = 500
    config.train.keep_checkpoints = 2
    config.train.init_from = ""
    return config


def validate(config: Any) -> None:
    """Raises a UserError that names every setting that is wrong, before anything is read or compiled."""
    agent, problems = config.agent, []

    def require(ok: bool, key: str, expected: str) -> None:
        if not ok:
            value = config
            for part in key.split("."):
                value = value[part]
            problems.append(f"config.{key} is {value!r}, expected {expected}")

    require(agent.name in agents.AGENTS, "agent.name", f"one of {sorted(agents.AGENTS)}")
    require(0 < config.discount <= 1, "discount", "a number in (0, 1]")
    require(config.value_range[0] < config.value_range[1], "value_range", "(least, greatest) attainable return")
    require(config.model.encoder in model.ENCODERS, "model.encoder", f"one of {model.ENCODERS}")
    require(config.model.attention in model.ATTENTION, "model.attention", f"one of {model.ATTENTION}")
    require(config.model.width % config.model.heads == 0, "model.width", "a multiple of config.model.heads")
    require(config.model.dtype in ("float32", "bfloat16"), "model.dtype", "float32 or bfloat16")
    require(0 < config.model.initial_value < 1, "model.initial_value", "a number in (0, 1)")
    require(config.data.episodes in FILTERS, "data.episodes", f"one of {FILTERS}")
    require(0 <= config.data.validation_fraction < 1, "data.validation_fraction", "a number in [0, 1)")
    require(0 <= config.data.demonstration_share < 1, "data.demonstration_share", "a share in (0, 1), or 0 for all segments alike")
    require(config.data.random_shift >= 0, "data.random_shift", "a number of pixels, 0 for none")
    for key in ("steps", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"):
        require(config.train[key] > 0, f"train.{key}", "a positive number")
    require(config.dt_ref > 0, "dt_ref", "a positive number of seconds")
    require(0 <= config.model.dropout < 1, "model.dropout", "a number in [0, 1)")
    devices = jax.device_count()
    require(config.data.batch_size % devices == 0, "data.batch_size", f"a multiple of the {devices} devices")
    if agent.name == "q_transformer":
        require(agent.alpha >= 0, "agent.alpha", "at least 0")
        require(0 < agent.target_rate <= 1, "agent.target_rate", "a number in (0, 1]")
        require(agent.n_step >= 1, "agent.n_step", "at least 1")
        require(agent.backup in losses.BACKUPS, "agent.backup", f"one of {losses.BACKUPS}")
        require(agent.conservatism in losses.CONSERVATISM, "agent.conservatism", f"one of {losses.CONSERVATISM}")
        require(agent.value_loss in ("squared", "histogram"), "agent.value_loss", "squared or histogram")
        if agent.value_loss == "histogram":
            require(config.model.atoms > 1, "model.atoms", "more than 1 with value_loss='histogram', such as 51")
        else:
            require(config.model.atoms == 1, "model.atoms", "1 with value_loss='squared'")
    else:
        require(config.model.atoms == 1, "model.atoms", "1 (only value_loss='histogram' has atoms)")
    if problems:
        raise UserError("Bad config: " + "; ".join(problems) + ".")
