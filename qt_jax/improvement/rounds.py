"""Rounds of experience, top to bottom: act, keep what was done, train on from there, evaluate.

A round that was stopped goes on where it was: a collection after its finished batches, a training from its
last checkpoint. It is done once its row is there, which is written last.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from qt_jax import children, faults, storage
from qt_jax.curation import rlds_writer
from qt_jax.errors import UserError
from qt_jax.evaluation import runs, statistics
from qt_jax.improvement import calibration, mixing, page, settings
from qt_jax.training import checkpoints, datasets, distributed, loop, setup
from qt_jax.training.peers import Peers

FOLDER = "improve"
"""Below config.workdir."""
TABLE = "improve.jsonl"


def improve(config: Any) -> list[dict[str, Any]]:
    """Runs the rounds that are not done yet; of recorded episodes one round.

    The run in `config.workdir` is what they begin with; it is trained first if it is not finished.

    Args:
        config: the experiment's, with a section `improve`.

    Returns:
        The table: a row for the run that they begin with, and one for each round that is done.

    Raises:
        UserError: for a bad setting, a round whose episodes are not there or of another robot, or whatever
            collecting, training and evaluating raise.
        Preempted: if SIGTERM or Ctrl-C came while it trained; the run is saved.

    """
    settings.check(config)
    recorded = config.improve.collect == settings.RECORDED
    with distributed.start(config.distributed) as peers:
        if jax.process_count() > 1 and settings.evaluates(config):
            raise UserError(
                f"The config has a simulator, and there are {jax.process_count()} processes; expected one, "
                f"or config.improve.collect={settings.RECORDED!r} and a config without `env`."
            )
        rounds = Rounds(config, peers)
        rounds.begin()
        left = [number for number in range(1, config.improve.rounds + 1) if not rounds.is_done(number)]
        for number in left[:1] if recorded else left:
            rounds.run(number)
        if recorded:
            _print(rounds.expected(left[1]) if left[1:] else "raise config.improve.rounds to go on")
        return rounds.rows()


class Rounds:
    """The rounds of one config, in the folder `improve` of its run.

    Attributes:
        root: that folder.

    """

    def __init__(self, config: Any, peers: Peers):
        self._config, self._peers = config, peers
        self.root = storage.directory(config.workdir) / FOLDER

    def folder(self, number: int) -> epath.Path:
        """Returns where all of a round is."""
        return self.root / f"round_{number}"

    def episodes(self, number: int) -> epath.Path:
        """Returns where the dataset of a round is, or has to be."""
        return self.folder(number) / "episodes"

    def workdir(self, number: int) -> str:
        """Returns the directory of the run that a round trained; round 0 is that of the config."""
        return str(self.folder(number) / "run") if number else self._config.workdir

    def expected(self, number: int) -> str:
        """Returns in words where the episodes of a round have to be recorded, and how."""
        path = self.episodes(number)
        return (
            f"round {number} expects recorded episodes at {path}: export {self.workdir(number - 1)}, `serve` "
            f"it with --record={path}, label its episodes, and end the server"
        )

    def is_done(self, number: int) -> bool:
        """Returns whether a round has its row."""
        return self._row(number).exists()

    def rows(self) -> list[dict[str, Any]]:
        """Reads the rows of the rounds that are done, in order."""
        done = [number for number in range(self._config.improve.rounds + 1) if self.is_done(number)]
        return [json.loads(self._row(number).read_text()) for number in done]

    def begin(self) -> None:
        """Trains the run that the rounds begin with, if it is not finished, and evaluates it."""
        config = self._config
        if not checkpoints.finished(config):
            self._train(config, datasets.entries(config))
        elif settings.evaluates(config):
            runs.check_config(config, checkpoints.load_assets(config.workdir))
        if not self.is_done(0):
            self._finish({"round": 0, "evaluation": self._evaluated(config)})
        self._publish()  # what an earlier process had no time for

    def run(self, number: int) -> None:
        """Runs a round, or what is left of it."""
        own, name = self._config_of(number), self.folder(number).name
        self._keep_settings(number)
        if not (self.episodes(number) / rlds_writer.VERSION).exists():
            self._collect(own, number)
        folders = {self.folder(done).name: self.episodes(done) for done in range(1, number + 1)}
        mixed = mixing.mixed(own, folders)

        value = None
        if mixed.transitions[name]:
            frozen, recipe, _ = setup.prepare(ml_collections.FrozenConfigDict(own), mixed.entries)
            none = np.zeros(0, np.int64)
            of_round = [
                np.concatenate([source.train, source.validation]) if source.name == name else none
                for source in recipe.mixture.sources
            ]
            value = calibration.measure(frozen, recipe, self.workdir(number - 1), of_round)
        if not checkpoints.finished(own):
            self._train(own, mixed.entries)

        index = mixed.indices[name]
        tasks = {task: statistics.success_rate(flags.tolist()) for task, flags in index.outcomes.items()}
        self._finish(
            {
                "round": number,
                "collected": {
                    "overall": statistics.success_rate(index.columns["success"].tolist()),
                    "tasks": tasks,
                    "transitions": int(index.columns["length"].sum()),
                    "trained_on": mixed.transitions[name],
                },
                "value": value,
                "steps": own.train.steps,
                "new_share": own.improve.new_share,
                "evaluation": self._evaluated(own),
            }
        )

    def _config_of(self, number: int) -> ml_collections.ConfigDict:
        """Returns the config of a round's collection, training and evaluation."""
        own = ml_collections.ConfigDict(self._config).copy_and_resolve_references()
        before = self.workdir(number - 1)
        own.workdir = self.workdir(number)
        own.seed = _seed(own.seed, number)
        own.model.encoder_weights = ""  # the encoder is the earlier run's
        own.train.init_from, own.train.init_keeps = before, settings.keeps(own)
        own.train.steps = own.improve.steps
        if settings.evaluates(own):
            own.evaluate.step = 0
        if own.improve.collect != settings.RECORDED:
            own.collect.seed = _seed(own.collect.seed, number)
            own.collect.demonstrations, own.collect.autonomous = 0, own.improve.episodes
            own.collect.mix = ml_collections.ConfigDict({own.improve.collect: 1.0})
            own.collect.policy = before
        return own

    def _keep_settings(self, number: int) -> None:
        """Writes down with which settings a round begins; raises a UserError if it began with others."""
        file = self.folder(number) / "settings.json"
        now = {name: value for name, value in self._config.improve.to_dict().items() if name != "rounds"}
        if file.exists():
            before = json.loads(file.read_text())
            if differing := [name for name in now if now[name] != before.get(name)]:
                name = differing[0]
                raise UserError(
                    f"{self.folder(number)} began with config.improve.{name}={before.get(name)!r}, now it is "
                    f"{now[name]!r}; give the same, or delete that folder to begin the round anew.",
                    topic="other-settings",
                )
        else:
            _write(file, json.dumps(now, indent=1) + "\n")

    def _collect(self, own: ml_collections.ConfigDict, number: int) -> None:
        """Collects the episodes of a round; raises a UserError where a robot has to record them."""
        if own.improve.collect == settings.RECORDED:
            raise UserError(f"{self.expected(number)}.")
        config = own.copy_and_resolve_references()
        config.data.path = str(self.episodes(number))
        _print(f"round {number}: {own.improve.episodes} episodes of each task, by {own.collect.policy}")
        spawn = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, spawn, children.end_with_parent) as pool:
                pool.submit(_collected, config).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"The process that collects round {number} died, by lack of memory or in the GL driver; "
                "start again, with fewer config.collect.workers.",
                topic="out-of-memory",
            ) from error

    def _train(self, config: Any, entries: tuple[Any, ...]) -> None:
        loop.train(ml_collections.FrozenConfigDict(config), entries, self._peers)

    def _evaluated(self, config: Any) -> dict[str, Any] | None:
        """Evaluates a run, if there is a simulator; returns its success by task and of all."""
        if not settings.evaluates(config):
            return None
        from qt_jax.evaluation import evaluate  # it imports a simulator's library

        found = evaluate.evaluate(config, evaluate.of_run(config))
        return {part: found[part] for part in ("overall", "tasks")}

    def _row(self, number: int) -> epath.Path:
        return self.folder(number) / "round.json"

    def _finish(self, row: dict[str, Any]) -> None:
        """Writes the row of a round, and with it the round is done; then the table and the page."""
        _write(self._row(row["round"]), json.dumps(row, indent=1) + "\n")
        self._publish()

    def _publish(self) -> None:
        """Writes the table and the page of the rounds that are done."""
        rows = self.rows()
        _write(self.root / TABLE, "".join(json.dumps(row) + "\n" for row in rows))
        _write(self.root / page.PAGE, page.render(self._config.workdir, rows))


def _collected(config: ml_collections.ConfigDict) -> None:
    """Collects, in a process of its own: the writer's TensorFlow crashes beside a software renderer."""
    from qt_jax.curation import collect  # it imports a simulator's library

    try:
        collect.collect(config)
    except UserError:
        raise
    except Exception as error:  # whatever TFDS raises at a full disk
        fault = faults.find(error)
        if fault is None:
            raise
        raise UserError(
            f"{config.data.path} is not written: {fault.what} ({faults.root_cause(error)}); {fault.remedy}, "
            "and start again.",
            topic=fault.topic,
        ) from None


def _seed(seed: int, number: int) -> int:
    """Returns the seed of a round, which is no other round's nor that of a run with another seed."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _write(path: epath.Path, text: str) -> None:
    """Writes a file, in the first process alone."""
    if jax.process_index():
        return
    with storage.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_text(path, text)


def _print(text: str) -> None:
    if not jax.process_index():
        print(text, flush=True)
