"""Episodes under way: who is in which slot, what was seen, and what a new instruction asks to be encoded again."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from qt_jax.errors import UserError
from qt_jax.serving.runtime import Action, Runtime, check, undecided


class Refused(UserError):
    """A request that got no action.

    code: a stable name of the reason (docs/robot.md lists them). in_history: whether its frame is in the episode's history all the same.
    """

    def __init__(self, code: str, message: str, in_history: bool = False):
        super().__init__(message)
        self.code, self.in_history = code, in_history


@dataclasses.dataclass(frozen=True)
class Request:
    """One observation of one robot.

    session: which episode's. images: {camera: uint8 [H, W, 3]}. state: raw, float [state_dim].
    instruction: a sentence, or its embedding, float [E]. reset: the first of a new episode.
    """

    session: Hashable
    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str | np.ndarray
    reset: bool = False


@dataclasses.dataclass(frozen=True)
class Decision:
    """action float32 [D]; tokens int32 [D]; chosen float32 [D], the scores of the chosen bins; score: of the
    whole action; scores float32 [D, N]; step: from 0."""

    action: np.ndarray
    tokens: np.ndarray
    chosen: np.ndarray
    score: float
    scores: np.ndarray
    step: int


@dataclasses.dataclass
class _Frame:
    """What was seen, and the bins [D] of what was done then: -1 until it is decided."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass
class _Episode:
    slot: int
    frames: collections.deque
    embedding: np.ndarray | None = None
    step: int = 0


class Sessions:
    """Not thread-safe: one thread asks.

    Args:
        embed: sentence -> float [E].
        reserved: slots that no session takes, so that `values` always has one.
    """

    def __init__(self, policy: Runtime, embed: Callable[[str], np.ndarray], reserved: int = 0):
        self.policy, self._embed = policy, embed
        self._episodes: dict[Hashable, _Episode] = {}
        slots = list(range(policy.slots))[::-1]
        self._reserved, self._free = slots[:reserved], slots[reserved:]
        self._lost: set[Hashable] = set()

    @property
    def limit(self) -> int:
        """Episodes at once."""
        return self.policy.slots - len(self._reserved)

    def __len__(self) -> int:
        return len(self._episodes)

    def close(self, session: Hashable) -> None:
        """Forgets an episode; unknown ones are forgotten already."""
        episode = self._episodes.pop(session, None)
        if episode is not None:
            self._free.append(episode.slot)
        self._lost.discard(session)

    def lose_all(self) -> None:
        """After a failure that left the policy's windows in no known state: every session must begin a new episode."""
        lost = {*self._episodes, *self._lost}
        for session in lost:
            self.close(session)
        self._lost = lost
        self.policy.forget_all()

    def act(self, requests: Sequence[Request]) -> list[Decision | Refused]:
        """One control step of each session that asks, in one batch; what is refused leaves its session as it was.

        A session's first request begins its episode. One whose instruction differs from that before has its window encoded anew.
        """
        if len({request.session for request in requests}) < len(requests):
            raise ValueError("A session may ask once a batch.")
        results: list[Decision | Refused] = [self._open(request) for request in requests]  # type: ignore[misc]
        accepted = [number for number, result in enumerate(results) if isinstance(result, np.ndarray)]
        if not accepted:
            return results
        episodes = [self._episodes[requests[number].session] for number in accepted]
        rows = []
        for number, episode in zip(accepted, episodes):
            request, embedding = requests[number], results[number]
            if request.reset:
                episode.frames.clear()
                episode.step = 0
            told_anew = episode.step > 0 and not np.array_equal(embedding, episode.embedding)
            episode.embedding = embedding
            episode.frames.append(_Frame(request.images, request.state, undecided(self.policy.spec, 1)[0]))
            rows.append(list(episode.frames)[0 if told_anew else -1 :])
        for place in range(max(map(len, rows)) - 1):  # the window again, its first frame as an episode's first
            again = [(e, row, place == 0) for e, row in zip(episodes, rows) if place < len(row) - 1]
            self._step([(e, row[place], first) for e, row, first in again])
        action = self._step([(e, row[-1], e.step == 0) for e, row in zip(episodes, rows)])
        for row, (number, episode) in enumerate(zip(accepted, episodes)):
            tokens, chosen, scores = action.tokens[row], action.chosen[row], action.scores[row]
            episode.frames[-1].tokens, score = tokens, float(self.policy.spec.score(chosen))
            results[number] = Decision(action.actions[row], tokens, chosen, score, scores, episode.step)
            episode.step += 1
        return results

    def values(self, session: Hashable, instructions: Sequence[str]) -> np.ndarray:
        """Value of each instruction in the session's current observation (its window told so from the start):
        maximum over the bins of the dim that is decided first.

        Uses as many free and reserved slots as there are instructions, in turns where there are fewer.

        Raises:
            Refused: `no_values`, `unknown_session`, or `sessions_full` if no slot is free.
        """
        if self.policy.spec.score_name != "Q":
            raise Refused("no_values", f"This policy's scores are of kind {self.policy.spec.score_name!r}, no values.")
        if session not in self._episodes:
            raise Refused("unknown_session", "This session has no observation yet; send one first.")
        spare = self._reserved + self._free
        if not spare:
            raise Refused("sessions_full", f"All {self.limit} slots are in episodes; close one, or serve with more slots.")
        frames, values = list(self._episodes[session].frames), []
        for start in range(0, len(instructions), len(spare)):
            part = instructions[start : start + len(spare)]
            told = [_Episode(slot, collections.deque(), self.embedding(text)) for slot, text in zip(spare, part)]
            for place, frame in enumerate(frames):
                action = self._step([(episode, frame, place == 0) for episode in told])
            values.append(action.scores[:, self.policy.spec.decided[0]].max(-1))
        return np.concatenate(values)

    def embedding(self, instruction: str | np.ndarray) -> np.ndarray:
        """float32 [E]; raises the UserError of `embed`."""
        return np.asarray(self._embed(instruction) if isinstance(instruction, str) else instruction, np.float32)

    def _open(self, request: Request) -> np.ndarray | Refused:
        """The embedding of a request that can be served, its session open."""
        try:
            embedding = self.embedding(request.instruction)
            check(self.policy.spec, request.images, request.state, embedding)
        except Refused as refused:
            return refused
        except UserError as error:
            return Refused("bad_observation", str(error))
        if request.session in self._lost and not request.reset:
            return Refused("episode_lost", "The server failed in this episode; begin a new one with reset.")
        self._lost.discard(request.session)
        if request.session not in self._episodes:
            if not self._free:
                return Refused("sessions_full", f"All {self.limit} slots are in episodes; close one, or serve with more slots.")
            window = self.policy.spec.window
            self._episodes[request.session] = _Episode(self._free.pop(), collections.deque(maxlen=window))
        return embedding

    def _step(self, rows: Sequence[tuple[_Episode, _Frame, bool]]) -> Action:
        episodes, frames, is_first = zip(*rows)
        images = {name: _stacked([frame.images[name] for frame in frames]) for name in self.policy.spec.observation.cameras}
        state, embeddings = _stacked([frame.state for frame in frames]), _stacked([episode.embedding for episode in episodes])
        slots, executed = np.asarray([episode.slot for episode in episodes]), np.stack([frame.tokens for frame in frames])
        return self.policy.act(slots, images, state, embeddings, np.asarray(is_first), executed)


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """`np.stack`, without the copy where there is one row: a lone robot's image."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
