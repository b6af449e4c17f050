"""A policy of any kind whose proposals another policy ranks before one of them acts."""

from __future__ import annotations

import collections
import contextlib
import json
import time
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused
from qt_jax.serving.threads import in_thread


class Proposer(Protocol):
    """What proposes actions, such as openpi's `WebsocketClientPolicy` or our `Client`."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Returns {"actions": [H, dims]}, drawn anew at each call."""


class Ranker(Protocol):
    """What ranks them, such as our `Client` or a `LoadedPolicy`."""

    @property
    def candidates(self) -> int:
        """Most candidates that it takes."""

    def rank(self, observation: dict[str, Any], candidates: np.ndarray) -> dict[str, Any]:
        """Returns "q", "order" and "support": see `LoadedPolicy.rank`."""


class Ranked:
    """What `ranked` returns. It has openpi's `infer` and `reset`; not thread-safe."""

    def __init__(self, client: Proposer, ranker: Ranker, k: int, deadline_ms: float, shadow: Path | None):
        if not 0 < deadline_ms < float("inf"):
            raise UserError(f"deadline_ms is {deadline_ms}; give milliseconds above 0.")
        if not 1 <= k <= ranker.candidates:
            raise UserError(
                f"k is {k}, the ranker takes {ranker.candidates} candidates at most; give another k, or "
                "export the ranker with more --candidates."
            )
        self._client, self._ranker, self._k, self._deadline_s = client, ranker, k, deadline_ms / 1000
        self._log = None if shadow is None else _opened(shadow)
        self._asked: futures.Future | None = None
        self._begins = False
        self._counts: collections.Counter[str] = collections.Counter()
        self._fallbacks: collections.Counter[str] = collections.Counter()

    @property
    def metadata(self) -> dict[str, Any]:
        """The proposer's own, where it says what it is, and under "ranked" the counts of decisions so far.

        They are "decisions", "ranked", "changed" (another than the first proposal is best), "fallbacks" by
        reason ("late", or why it was refused) and "unwritten" lines of the log.
        """
        ask = getattr(self._client, "get_server_metadata", None)
        about = ask() if ask else getattr(self._client, "metadata", {})
        counts = {name: self._counts[name] for name in ("decisions", "ranked", "changed", "unwritten")}
        ranked = {"k": self._k, "shadow": self._log is not None} | counts
        return {**about, "ranked": ranked | {"fallbacks": dict(self._fallbacks)}}

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Asks for K proposals and returns the best one's reply.

        Args:
            observation: is sent to both as it is.

        Returns:
            The proposer's reply, and "ranking": "chosen", the number of the best proposal; "acts", of the one
            that is returned; "q" and "support" of all; "fallback" and "why" there are none; "rank_ms".

        Raises:
            UserError: if what is proposed is no action, or of several shapes; and what the proposer raises.

        """
        replies = [self._client.infer(dict(observation)) for _ in range(self._k)]
        proposals = _stacked(replies)
        self._begins |= bool(observation.get("reset"))
        seen = {**observation, "reset": True} if self._begins else dict(observation)

        start = time.monotonic()
        found, fallback, why = self._ask(seen, proposals, start + self._deadline_s)
        ranking: dict[str, Any] = {"chosen": 0, "acts": 0, "q": [], "support": []}
        ranking |= {"fallback": fallback, "why": why}
        self._counts["decisions"] += 1
        if found is None:
            self._fallbacks[fallback] += 1
        else:
            # No arrays: openpi's ActionChunkBroker takes a row of each that is in a reply.
            ranking |= {name: np.asarray(found[name]).tolist() for name in ("q", "support")}
            ranking["chosen"] = int(found["order"][0])
            self._counts["ranked"] += 1
            self._counts["changed"] += ranking["chosen"] > 0
        ranking["rank_ms"] = 1000 * (time.monotonic() - start)
        if self._log is None:
            ranking["acts"] = ranking["chosen"]
        else:
            self._write(ranking)
        return {**replies[ranking["acts"]], "ranking": ranking}

    def reset(self) -> None:
        """Begins an episode with the next observation; tells the client too, if it has `reset`."""
        self._begins = True
        if reset := getattr(self._client, "reset", None):
            reset()

    def close(self) -> None:
        """Closes the log of shadow mode; client and ranker stay open."""
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Ranked:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(
        self, seen: dict[str, Any], proposals: np.ndarray, end: float
    ) -> tuple[dict[str, Any] | None, str, str]:
        """Returns the ranker's reply; or None, the reason as a code, and in words."""
        begun = self._begins
        try:
            if self._asked is not None:  # a request that was late is still under way
                with contextlib.suppress(UserError):
                    self._asked.result(max(0.0, end - time.monotonic()))
            self._asked = in_thread(self._ranker.rank, seen, proposals, name="ranker")
            self._begins = False
            found = self._asked.result(max(0.0, end - time.monotonic()))
        except futures.TimeoutError:
            return None, "late", f"The ranker took longer than {1000 * self._deadline_s:g} ms."
        except UserError as error:
            self._asked, self._begins = None, begun  # its frame is not in the ranker's history
            code = error.code if isinstance(error, Refused) else type(error).__name__
            return None, code, str(error)
        self._asked = None
        return found, "", ""

    def _write(self, ranking: dict[str, Any]) -> None:
        """Adds a line to the log; one that the disk does not take is counted."""
        assert self._log is not None
        q = [x if np.isfinite(x) else None for x in ranking["q"]]  # -inf is no JSON
        line = {"time": time.time(), "decision": self._counts["decisions"] - 1, **ranking, "q": q}
        try:
            self._log.write(json.dumps(line).encode() + b"\n")
        except OSError:  # such as a full disk, for which no robot is stopped
            self._counts["unwritten"] += 1


def ranked(
    client: Proposer,
    ranker: Ranker,
    k: int,
    *,
    deadline_ms: float = 100.0,
    shadow: str | Path | None = None,
) -> Ranked:
    """Wraps a policy server's client: k of its proposals are ranked, and the best one acts.

    The first proposal acts where the ranker does not answer in time, or refuses; that is counted
    (`Ranked.metadata`). A frame that the ranker was not shown is missing in its window.

    Args:
        client: what proposes. Its `infer` is called k times for each decision, so it should not count steps.
        ranker: what ranks; it gets the same observations, and the first of each episode with "reset".
        k: how many proposals a decision has.
        deadline_ms: for the ranker, from when the last proposal is there (default of this project).
        shadow: a file. The first proposal acts always, and a line of JSON is added to this file for each
            decision: which would have acted. It takes the time that it would take in earnest.

    Raises:
        UserError: if the ranker does not take k candidates, or the file cannot be written.

    """
    return Ranked(client, ranker, k, deadline_ms, None if shadow is None else Path(shadow))


def _stacked(replies: list[dict[str, Any]]) -> np.ndarray:
    """Returns the actions of all replies, [K, H, dims]."""
    proposals = [np.atleast_2d(np.asarray(reply.get("actions"))) for reply in replies]
    shapes = sorted({proposal.shape for proposal in proposals})
    if len(shapes) > 1 or any(proposal.dtype.kind not in "fiu" for proposal in proposals):
        kinds = sorted({str(proposal.dtype) for proposal in proposals})
        raise UserError(
            f"The proposals' 'actions' are of {', '.join(kinds)} and shapes {[list(s) for s in shapes]}; "
            "expected numbers of one shape [H, dims]."
        )
    return np.stack(proposals)


def _opened(path: Path) -> BinaryIO:
    """Opens a file that keeps nothing in memory: closing it cannot fail on a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"shadow={path} cannot be written ({error.strerror}); give another file.") from error
