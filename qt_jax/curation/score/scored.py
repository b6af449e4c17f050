"""Scores a dataset: judges look at every episode, file by file, then a copy with the values is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy.stats import mannwhitneyu

from qt_jax import storage
from qt_jax.curation.score import STEP_VALUES, lerobot, rlds
from qt_jax.curation.score.chances import success_probabilities
from qt_jax.curation.score.judge import Judge
from qt_jax.data import index as indices
from qt_jax.data import npz
from qt_jax.data.lerobot import Folder
from qt_jax.data.mixture import Source, fold_of
from qt_jax.errors import UserError

LABELS = "labels.jsonl"


class Scored:
    """A dataset of a mixture and the values that its judges gave so far.

    Args:
        judges: one a fold.
        name: of the dataset in the mixture.
        output: where the copy goes; values are kept beside it until then.

    Raises:
        UserError: for a name that the mixture does not have, play, a copy that is there already, or values
            of other judges.

    """

    def __init__(self, judges: Sequence[Judge], name: str, output: str):
        self._judges, self._output = judges, output
        sources = judges[0].recipe.mixture.sources
        names = [source.name for source in sources]
        if not name and len(names) > 1 or name and name not in names:
            raise UserError(f"--dataset is {name!r}; expected one of {names}, all of which train the judges.")
        self._number = names.index(name) if name else 0
        self._source: Source = sources[self._number]
        if self._source.spec.pieces is not None:
            raise UserError(
                f"{self._source.spec.path} is play, of which a record is many episodes; `score` takes none."
            )
        self._writer: Any = lerobot if isinstance(self._source.directory, Folder) else rlds
        self._writer.check(self._source.directory, output)
        self._fold = fold_of(self._source.index.columns["id_hash"], len(judges))
        self._work = storage.directory(f"{output.rstrip('/')}.values")
        self._check_work()

    def _check_work(self) -> None:
        own = {
            "dataset": self._source.index.fingerprint,
            "judges": [[judge.recipe.mixture.fingerprint, judge.step] for judge in self._judges],
        }
        file = self._work / "judges.json"
        if not file.exists():
            self._work.mkdir(parents=True, exist_ok=True)
            storage.replace_text(file, json.dumps(own))
        elif json.loads(file.read_text()) != own:
            raise UserError(
                f"{self._work} holds values of other judges or other data; delete it or choose another "
                "--output."
            )

    def look(self, part: int, parts: int) -> int:
        """Computes the values of every `parts`-th file from file `part` on that has none yet.

        Returns:
            How many files were looked at.

        """
        shard, count = self._source.index.columns["shard"], 0
        for number in range(part, len(self._source.directory.shards), parts):
            if (file := self._file(number)).exists():
                continue
            found: dict[int, np.ndarray] = {}
            for fold, judge in enumerate(self._judges):
                members = np.flatnonzero((shard == number) & (self._fold == fold))
                found |= judge.values(self._number, members)
            arrays = {str(episode): values for episode, values in found.items()}
            storage.replace_bytes(file, npz.to_bytes(arrays, {}))
            count += 1
        return count

    def missing(self) -> int:
        """Returns how many files have no values yet."""
        return sum(not self._file(number).exists() for number in range(len(self._source.directory.shards)))

    def _file(self, number: int) -> epath.Path:
        return self._work / f"{number:05d}.npz"

    def write(self) -> str:
        """Writes the copy and LABELS beside it, and removes the kept values; returns lines for a terminal."""
        columns, source = self._source.index.columns, self._source
        looked: dict[int, np.ndarray] = {}
        for number in range(len(source.directory.shards)):
            arrays, _ = npz.from_bytes(self._file(number).read_bytes())
            looked |= {int(name): values for name, values in arrays.items()}
        q = [looked[episode][0] for episode in range(len(columns["length"]))]
        chances = success_probabilities(q, columns["success"], self._fold)
        episode_at = {
            (int(shard), int(position)): episode
            for episode, (shard, position) in enumerate(zip(columns["shard"], columns["position"]))
        }

        def values_of(shard: int, position: int, rows: int) -> np.ndarray:
            values = np.full((len(STEP_VALUES), rows), np.nan, np.float32)
            episode = episode_at.get((shard, position))
            if episode is not None:  # else its standardiser leaves it out
                q, value = looked[episode]
                values[:, : len(q)] = q, value, q - value, chances[episode]
            return values

        cache = self._judges[0].recipe.cache
        path = self._writer.write(source.directory, values_of, self._output, cache)
        last = np.asarray([of_steps[-1] for of_steps in chances])
        labels = epath.Path(path) / LABELS
        storage.replace_text(labels, self._labels(last))
        self._work.rmtree()
        return "\n".join([f"{path}: {len(last)} episodes", *self._summary(q, last), f"labels: {labels}"])

    def _labels(self, last: np.ndarray) -> str:
        """Returns a JSON line an episode, those first whose label is least like what its values say."""
        source, success = self._source, self._source.index.columns["success"]
        doubt = np.nan_to_num(np.abs(success - last), nan=-1.0)
        lines = []
        for episode in np.argsort(-doubt, kind="stable"):
            known: dict[str, Any] = {
                "number": int(episode),
                "episode": indices.where(source.directory, source.index, int(episode)),
                "task": source.index.tasks[source.index.columns["task"][episode]],
                "success": bool(success[episode]),
                "success_probability": None if doubt[episode] < 0 else round(float(last[episode]), 4),
            }
            lines.append(json.dumps(known) + "\n")
        return "".join(lines)

    def _summary(self, q: list[np.ndarray], last: np.ndarray) -> list[str]:
        """Returns how well values tell successes from failures, a line for the first and the last step."""
        success = self._source.index.columns["success"]
        lines = []
        for where, place in (("first", 0), ("last", -1)):
            values = np.asarray([of_steps[place] for of_steps in q])
            groups = [values[success & np.isfinite(values)], values[~success & np.isfinite(values)]]
            if min(map(len, groups)):
                auc = mannwhitneyu(*groups).statistic / (len(groups[0]) * len(groups[1]))
                means = [f"{group.mean():.3g}" for group in groups]
                lines.append(
                    f"  q of the {where} action, held out: mean {means[0]} of successes, {means[1]} of "
                    f"failures; AUC {auc:.3f}"
                )
        unknown = int(np.isnan(last).sum())
        return lines + ([f"  {unknown} episodes have an unknown last value"] if unknown else [])
