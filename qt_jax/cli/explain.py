"""What an error means: `python -m qt_jax explain TOPIC` shows a section of troubleshooting.md.

The page is a part of the package, since a robot or a node of a cluster may have no network. Imports nothing
that the base install lacks.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from qt_jax.errors import EXIT_USER_ERROR, UserError

PAGE = Path(__file__).parents[1] / "troubleshooting.md"
"""Its headings of the second level are the topics, in lower case with dashes."""

TOPICS = {
    "__main__": "launch",  # launch/__main__.py, as `python -m launch` runs it
    "launch": "launch",
    "qt_jax.agents": "no-values",
    "qt_jax.cli": "settings",
    "qt_jax.cli.record": "recorded-episodes",
    "qt_jax.curation": "convert",
    "qt_jax.curation.advise": "dataset",
    "qt_jax.curation.collect": "simulator",
    "qt_jax.curation.dataset_rerun": "settings",
    "qt_jax.curation.repack": "dataset",
    "qt_jax.curation.repack_lerobot": "dataset",
    "qt_jax.curation.robot_episodes": "recorded-episodes",
    "qt_jax.curation.score": "score",
    "qt_jax.data": "dataset",
    "qt_jax.data.idle": "filters",
    "qt_jax.data.lerobot_spec": "dataset-tables",
    "qt_jax.data.described": "dataset-tables",
    "qt_jax.data.mixture": "filters",
    "qt_jax.data.names": "dataset-tables",
    "qt_jax.data.returns": "returns",
    "qt_jax.data.segments": "settings",
    "qt_jax.data.tables": "dataset-tables",
    "qt_jax.envs": "simulator",
    "qt_jax.evaluation": "evaluate",
    "qt_jax.evaluation.affordances": "no-values",
    "qt_jax.export": "export",
    "qt_jax.export.any_policy": "policy-files",
    "qt_jax.front_door": "settings",
    "qt_jax.improvement": "improve",
    "qt_jax.models": "encoder-parameters",
    "qt_jax.models.watched": "settings",
    "qt_jax.planning": "plan",
    "qt_jax.plugins": "own-code",
    "qt_jax.policy": "policy-files",
    "qt_jax.policy.candidates": "ranking",
    "qt_jax.policy.observations": "server",
    "qt_jax.policy.requests": "refused",
    "qt_jax.policy.runtime": "refused",
    "qt_jax.policy.sessions": "refused",
    "qt_jax.safety": "safety-limits",
    "qt_jax.serving": "server",
    "qt_jax.serving.any_server": "evaluate",
    "qt_jax.serving.client": "connection",
    "qt_jax.serving.control": "control-loop",
    "qt_jax.serving.ranking": "ranking",
    "qt_jax.serving.spool": "recorded-episodes",
    "qt_jax.specs": "settings",
    "qt_jax.statistics": "policy-files",
    "qt_jax.storage": "storage",
    "qt_jax.text": "sentences",
    "qt_jax.training": "settings",
    "qt_jax.training.assets": "checkpoint",
    "qt_jax.training.checkpoint_errors": "checkpoint",
    "qt_jax.training.checkpoints": "checkpoint",
    "qt_jax.training.continuing": "other-settings",
    "qt_jax.training.distributed": "processes",
    "qt_jax.training.feature_cache": "encoder-parameters",
    "qt_jax.training.lock": "locked",
    "qt_jax.training.loop": "checkpoint",
    "qt_jax.training.mesh": "mesh",
    "qt_jax.training.origin": "other-settings",
    "qt_jax.training.peers": "processes",
}
"""The topic of what a module raises, by the longest name of these that begins the module's."""


def of_module(name: str) -> str:
    """Returns the topic of what a module raises; "": of a module that is none of ours."""
    while name and name not in TOPICS:
        name = name.rpartition(".")[0]
    return TOPICS.get(name, "")


def topic_of(error: UserError) -> str:
    """Returns the topic of an error that was caught: its own, or that of the file which raised it."""
    frames = traceback.walk_tb(error.__traceback__)
    found = [topic for frame, _ in frames if (topic := of_module(frame.f_globals["__name__"]))]
    return error.topic or found[-1]


def line(error: UserError) -> str:
    """Returns the error's message, and the command that says more."""
    return f"{error} More: python -m qt_jax explain {topic_of(error)}"


def sections() -> dict[str, str]:
    """Returns the page's sections by topic: their text without the heading."""
    _, *parts = re.split(r"^## (.*)\n+", PAGE.read_text(encoding="utf-8"), flags=re.M)
    headings = (heading.lower().replace(" ", "-") for heading in parts[::2])
    return dict(zip(headings, parts[1::2]))


def text(topic: str) -> str:
    """Returns a section for a terminal: links are the words that they stand on.

    Raises:
        UserError: if there is no such topic.

    """
    known = sections()
    if topic not in known:
        raise UserError(f"There is no topic {topic!r}; expected one of {', '.join(known)}.")
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", known[topic]).rstrip()


def contents() -> str:
    """Returns a line for each topic: its name and the first sentence of its section."""
    first = {topic: text(topic).replace("\n", " ").partition(". ")[0] for topic in sections()}
    lines = [f"  {topic:20}{sentence.rstrip('.')}" for topic, sentence in first.items()]
    return "\n".join(["usage: python -m qt_jax explain TOPIC", "", "topics:", *lines])


def main(topics: Sequence[str]) -> None:
    """Prints the sections of these topics; without one, or for `--help`, which there are."""
    try:
        asked = topics and not {"-h", "--help"} & set(topics)
        print("\n\n".join(map(text, topics)) if asked else contents(), flush=True)
    except UserError as error:
        print(f"qt_jax explain: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
