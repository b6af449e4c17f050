"""One experiment's settings, and their check before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import config_dict

from qt_jax import agents, losses, text
from qt_jax.data.idle import Idle
from qt_jax.data.mixture import ACTION_BOUNDS, FILTERS
from qt_jax.data.mixtures import KINDS
from qt_jax.data.segments import TIME_LIMITS
from qt_jax.errors import UserError
from qt_jax.models import images
from qt_jax.models import q_transformer as model
from qt_jax.training import augment, distributed, mesh


def default_config(
    agent: str = "q_transformer", network: Callable[[], ml_collections.ConfigDict] = model.laptop
) -> ml_collections.ConfigDict:
    """Returns the defaults of this project for training.

    An experiment adds `env`, `collect` and `evaluate`, and overrides.

    Args:
        agent: a name of `agents.AGENTS`.
        network: its sizes, `model.laptop` or `model.paper`.

    """
    config = ml_collections.ConfigDict()
    config.workdir = "runs/default"  # directory or bucket of the run: checkpoints, metrics, reports
    config.seed = 0  # of initialisation, order of the data, dropout and augmentation
    config.discount = 0.98  # per dt_ref seconds; the ONE discount of data, loss and reports
    config.dt_ref = 0.0625  # seconds
    # least and greatest attainable return; empty: of 1 for success and data.step_penalty a step
    config.value_range = ()
    config.agent = agents.get(agent).get_config()
    config.model = network()
    config.data = ml_collections.ConfigDict()
    # a mixture or dataset by name: qt_jax/data/mixtures.py and specs.py, or data.tables
    config.data.mixture = "collected"
    config.data.path = (
        "data/default"  # of "collected": what `collect` or `convert` wrote, or a LeRobot folder
    )
    config.data.root = ""  # directory or bucket of the datasets with relative paths
    config.data.tables = ""  # a Python file of yours with SPECS and MIXTURES of your own
    config.data.cache = "~/.cache/qt_jax/data"  # indices of datasets, and files of buckets that must be local
    # or the name of the stored embeddings' encoder, or "module:function" of yours
    config.data.text_encoder = text.ENCODER
    config.data.episodes = "all"  # or "successes", "demonstrations", "demonstrations_and_failures"
    # most episodes a task of each collector, such as ("demonstration=10", "noise=200"), no others; (): all
    config.data.limits = ()
    config.data.validation_fraction = 0.05  # of the episodes, by hash; none where a dataset has its own split
    # (k, n): part k of n, by hash, is held out instead of that; so are all in turn (cross-fitting, `score`)
    config.data.fold = ()
    config.data.segment_length = 8  # steps of one episode that are scored together
    config.data.batch_size = 32  # segments, over all devices
    config.data.image_size = 0  # to which all images are resized, square; 0: as stored
    config.data.bins = 0  # of every action dim that has more than two; 0: the dataset's
    config.data.action_bounds = "spec"  # or "quantiles": 1% and 99% of each dataset's actions
    natural = {kind: config_dict.placeholder(float) for kind in KINDS}
    config.data.balance = ml_collections.ConfigDict(natural)  # share of a dataset's segments; None: natural
    config.data.shuffle_episodes = 512  # whose segments are shuffled together, over all hosts
    # a frozen encoder's features of each frame are computed once, into data.cache (float16): no step runs it
    config.data.cache_features = False
    config.data.memory_mib = 1024  # of encoded episodes, kept by all reading processes of a host together
    config.data.read_threads = 4  # that read and decode, in each process
    config.data.workers = 0  # processes that read and decode; 0: the training process does
    config.data.max_skipped = 0  # episodes of a dataset that may be damaged or have frames that do not decode
    config.data.step_penalty = 0.0  # taken from the reward of every step
    # from o_T, where one cut an episode short; or "terminal": such an episode ended with nothing
    config.data.time_limits = "bootstrap"
    # "delta:0.01" trains on no step whose action moves no dim by more than this share of its bounds and keeps
    # the gripper as it is; "absolute:0.01" on none whose action is that near the one before; "": on all
    config.data.idle = ""
    # share of the episodes that get another task's instruction, at which they failed (hindsight)
    config.data.relabel_rate = 0.0
    config.data.paraphrase_cosine = 0.9  # instructions nearer than this are the same task to hindsight
    config.data.augment = augment.get_config()
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 3e-4  # the highest (AdamW); may be lowered when a run continues
    config.optimizer.warmup_steps = 200  # linear
    config.optimizer.final_learning_rate = 0.1  # share of learning_rate at the last step (cosine)
    config.optimizer.encoder_learning_rate = 1.0  # of the image encoder, as a share; its FiLM has the whole
    config.optimizer.weight_decay = 1e-4  # of matrices alone
    config.optimizer.clip_norm = 1.0  # of the gradient
    config.mesh = mesh.get_config()
    config.distributed = distributed.get_config()
    config.train = ml_collections.ConfigDict()
    config.train.steps = 1000  # of the whole run; a run that continues may be given more
    config.train.log_every = 50  # steps
    config.train.validate_every = 500  # steps
    config.train.checkpoint_every = 500  # steps
    config.train.keep_checkpoints = 2  # the latest
    config.train.keep_best = 0  # and as many with the least best_metric
    config.train.best_metric = "validation/loss"  # of keep_best
    # parts of a batch that pass one after the other; the step stays that of the whole batch
    config.train.accumulation = 1
    config.train.init_from = ""  # a run whose parameters this one starts from
    config.train.compilation_cache = "~/.cache/qt_jax"  # compiled programs, kept between runs; empty: none
    # a step (or validation, or save) that takes longer ends the run with status 76
    config.train.step_timeout_s = 1800.0
    config.train.save_timeout_s = 1200  # for all hosts to finish a save
    config.train.lock_wait_s = 30.0  # for another training in workdir to end; then this one is refused
    config.train.wandb = ""  # project of Weights & Biases, beside TensorBoard; empty: none
    # first step of a trace for TensorBoard and Perfetto in workdir/profile; 0: none
    config.train.profile_start = 0
    config.train.profile_steps = 5  # of that trace
    return config


def validate(config: Any, devices: int) -> None:
    """Checks every setting before anything is read or compiled.

    Raises:
        UserError: that names every setting that is wrong for that many devices.

    """
    problems: list[str] = []

    def require(ok: bool, key: str, expected: str) -> None:
        if not ok:
            value: Any = config
            for part in key.split("."):
                value = value[part]
            problems.append(f"config.{key} is {value!r}, expected {expected}")

    agent: agents.Agent | None = None
    try:
        agent = agents.get(config.agent.name)
        images.encoder(config.model.encoder)
        Idle.read(config.data.idle)
    except UserError as error:
        problems.append(str(error).rstrip("."))
    require(0 <= config.seed < 2**32, "seed", "a whole number from 0 to 2**32 - 1")
    require(0 < config.discount <= 1, "discount", "a number in (0, 1]")
    span = config.value_range
    finite = not span or (len(span) == 2 and -math.inf < span[0] < span[1] < math.inf)
    require(finite, "value_range", "(least, greatest) attainable return, or ()")
    for key, known in model.choices().items():
        require(config.model[key] in known, f"model.{key}", f"one of {known}")
    for key in (
        *("window", "chunk", "networks", "layers", "width", "heads"),
        *("mlp_ratio", "image_size", "image_tokens"),
    ):
        require(config.model[key] > 0, f"model.{key}", "a positive number")
    require(0 <= config.model.execute <= config.model.chunk, "model.execute", "0 to config.model.chunk")
    for key in ("learning_rate", "final_learning_rate", "encoder_learning_rate", "weight_decay"):
        require(0 <= config.optimizer[key] < math.inf, f"optimizer.{key}", "0 or more")
    require(config.optimizer.clip_norm > 0, "optimizer.clip_norm", "a positive norm")
    require(0 <= config.optimizer.warmup_steps < 2**31, "optimizer.warmup_steps", "0 or more, below 2**31")
    require(config.data.read_threads >= 0, "data.read_threads", "0 or more")
    require(bool(config.data.path), "data.path", "a directory")
    require(
        config.model.width % max(config.model.heads, 1) == 0,
        "model.width",
        "a multiple of config.model.heads",
    )
    require(0 < config.model.initial_value < 1, "model.initial_value", "a number in (0, 1)")
    require(0 <= config.model.entropy_target < 1, "model.entropy_target", "a share in [0, 1), 0 for none")
    require(config.data.episodes in FILTERS, "data.episodes", f"one of {FILTERS}")
    require(0 <= config.data.validation_fraction < 1, "data.validation_fraction", "a number in [0, 1)")
    fold = tuple(config.data.fold)
    require(
        not fold or (len(fold) == 2 and 0 <= fold[0] < fold[1] and fold[1] > 1),
        "data.fold",
        "() or (k, n) with 0 <= k < n and n of at least 2",
    )
    require(config.data.action_bounds in ACTION_BOUNDS, "data.action_bounds", f"one of {ACTION_BOUNDS}")
    require(config.data.time_limits in TIME_LIMITS, "data.time_limits", f"one of {TIME_LIMITS}")
    require(0 <= config.data.relabel_rate < 1, "data.relabel_rate", "a share in [0, 1)")
    require(0 < config.data.paraphrase_cosine <= 1, "data.paraphrase_cosine", "a number in (0, 1]")
    for key in ("image_size", "bins", "workers", "max_skipped", "step_penalty", "memory_mib"):
        require(0 <= config.data[key] < math.inf, f"data.{key}", "0 or more")
    require(config.data.shuffle_episodes > 0, "data.shuffle_episodes", "a positive number")
    require(config.data.augment.shift >= 0, "data.augment.shift", "a number of pixels, 0 for none")
    for key in ("brightness", "contrast", "saturation", "hue"):
        require(0 <= config.data.augment[key] <= 1, f"data.augment.{key}", "a number in [0, 1]")
    for key in (
        *("steps", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints"),
        *("accumulation", "step_timeout_s", "save_timeout_s", "profile_steps"),
    ):
        require(config.train[key] > 0, f"train.{key}", "a positive number")
    require(config.train.steps < 2**31, "train.steps", "below 2**31")
    for key in ("keep_best", "profile_start", "lock_wait_s"):
        require(config.train[key] >= 0, f"train.{key}", "0 or more")
    if config.train.keep_best:
        every = config.train.validate_every
        require(
            config.train.checkpoint_every % every == 0,
            "train.checkpoint_every",
            f"a multiple of train.validate_every {every}, since keep_best compares what validation measured",
        )
    require(config.dt_ref > 0, "dt_ref", "a positive number of seconds")
    require(0 <= config.model.dropout < 1, "model.dropout", "a number in [0, 1)")

    data, fsdp, _ = mesh.axis_sizes(config.mesh, devices)
    accumulation = config.train.accumulation
    parts = data * fsdp * max(1, accumulation)
    require(
        config.data.batch_size > 0 and config.data.batch_size % parts == 0,
        "data.batch_size",
        f"a multiple of {parts} = mesh.data {data} x mesh.fsdp {fsdp} x train.accumulation {accumulation}",
    )

    if "n_step" in config.agent:
        require(config.agent.n_step >= 1, "agent.n_step", "at least 1")
    of_networks = losses.OF_NETWORKS if config.model.networks > 1 else losses.OF_NETWORKS[:1]
    for key in ("target_q", "acting_q"):
        if key in config.agent:
            needed = f"one of {losses.OF_NETWORKS}, and 'mean' of one network (config.model.networks)"
            require(config.agent[key] in of_networks, f"agent.{key}", needed)
    if agent is not None:
        if agent.targets is not None:
            require(0 < config.agent.target_rate <= 1, "agent.target_rate", "a number in (0, 1]")
        agent.check(config, require)

    problems += _of_eyes(config)

    if problems:
        raise UserError("Bad config: " + "; ".join(problems) + ".")


def _of_eyes(config: Any) -> list[str]:
    """Returns what is wrong with the settings of a pretrained or frozen encoder."""
    model, init_from, problems = config.model, config.train.init_from, []
    if model.encoder_weights and init_from:
        problems.append(
            f"config.model.encoder_weights is {model.encoder_weights!r} and config.train.init_from "
            f"{init_from!r}: both give the encoder's parameters; leave one of them empty"
        )
    if model.frozen_encoder:
        if not (model.encoder_weights or init_from or _is_pretrained(model.encoder)):
            problems.append(
                f"config.model.frozen_encoder is True and {model.encoder!r} starts at random; give "
                "config.model.encoder_weights or config.train.init_from, or take efficientnet_lite0"
            )
        if model.networks > 1 and init_from:
            problems.append(
                f"config.model.frozen_encoder needs the same encoder in all {model.networks} networks; give "
                "config.model.encoder_weights in place of config.train.init_from"
            )
        if config.optimizer.encoder_learning_rate != 1:
            problems.append(
                f"config.optimizer.encoder_learning_rate is {config.optimizer.encoder_learning_rate:g} of a "
                "frozen encoder; expected 1, or config.model.frozen_encoder=False"
            )
    if config.data.cache_features:
        if not model.frozen_encoder:
            problems.append("config.data.cache_features needs config.model.frozen_encoder=True")
        if used := [name for name, value in config.data.augment.items() if value]:
            problems.append(
                f"config.data.cache_features needs images as they are stored; set {used} of "
                "config.data.augment to 0"
            )
    return problems


def _is_pretrained(name: str) -> bool:
    """Returns whether the encoder brings its parameters; True of an unknown one, which is named elsewhere."""
    try:
        return hasattr(images.encoder(name), "pretrained")
    except UserError:
        return True
