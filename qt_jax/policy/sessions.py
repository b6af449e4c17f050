"""Sessions: which of the policy's episodes is whose, and the frames of their windows."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy import candidates
from qt_jax.policy.candidates import Ranking
from qt_jax.policy.episode import Episode, Frame, executed_bins, own_copy
from qt_jax.policy.guard import Guard
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.policy.runtime import Action, Runtime, check, shown, undecided

_Inputs = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]
"""Episodes, images, state, instruction and `is_first` of rows, as a `Runtime` takes them."""


class Sessions:
    """The episodes that robots have with a policy. Not thread-safe.

    Args:
        policy: what decides.
        embed: sentence -> float [E].
        reserved: episodes of the policy that no session takes, so that `values` always has one.
        name: of the policy, which its decisions say.

    """

    def __init__(
        self, policy: Runtime, embed: Callable[[str], np.ndarray], reserved: int = 0, name: str = ""
    ):
        self.policy, self._embed, self.name = policy, embed, name
        self._episodes: dict[Hashable, Episode] = {}
        indices = list(range(policy.capacity))[::-1]
        self._reserved, self._free = indices[:reserved], indices[reserved:]
        self._lost: set[Hashable] = set()

    @property
    def limit(self) -> int:
        """Sessions at once."""
        return self.policy.capacity - len(self._reserved)

    def __len__(self) -> int:
        return len(self._episodes)

    def __contains__(self, session: Hashable) -> bool:
        """Whether its episode is under way, or was lost and has not begun anew."""
        return session in self._episodes or session in self._lost

    def close(self, session: Hashable) -> None:
        """Forgets a session's episode, if it has one."""
        episode = self._episodes.pop(session, None)
        if episode is not None:
            self._free.append(episode.index)
        self._lost.discard(session)

    def lose_all(self) -> None:
        """Requires a new episode of every session.

        For failures that leave the policy's windows in an unknown state.
        """
        lost = {*self._episodes, *self._lost}
        for session in lost:
            self.close(session)
        self._lost = lost
        self.policy.forget_all()

    def act(self, requests: Sequence[Request]) -> list[Decision]:
        """Makes one decision for each session that asks, in one batch.

        A session's first request begins its episode. A request whose instruction differs from that before
        has its window encoded again.

        Raises:
            Refused: for the first request that cannot be served. None is then; every session is as it was.

        """
        _check_once_each(requests)
        before = set(self._episodes)
        try:
            embeddings = [self._admit(request) for request in requests]
        except BaseException:  # a Refused, or whatever `embed` raises
            for session in set(self._episodes) - before:
                self._free.append(self._episodes.pop(session).index)
            raise
        return self._decide(requests, embeddings)

    def act_each(self, requests: Sequence[Request]) -> list[Decision | Ranking | Refused]:
        """Does as `act`, but a request that cannot be served has its `Refused` in its place.

        The others act; the refused one's session is as it was. Requests with candidates are ranked, one after
        the other.
        """
        _check_once_each(requests)
        results: list[Any] = []
        for request in requests:
            try:
                results.append(self._admit(request))
            except Refused as refused:
                results.append(refused)
        taken = [number for number, result in enumerate(results) if not isinstance(result, Refused)]
        acting = [number for number in taken if requests[number].candidates is None]
        decided = self._decide([requests[number] for number in acting], [results[n] for n in acting])
        for number, decision in zip(acting, decided):
            results[number] = decision
        for number in sorted({*taken} - {*acting}):
            results[number] = self._rank(requests[number], results[number])
        return results

    def _decide(self, requests: Sequence[Request], embeddings: Sequence[np.ndarray]) -> list[Decision]:
        """Decides for requests whose sessions are open."""
        if not requests:
            return []
        seen = self._look(requests, embeddings)
        action, decisions = self._step(seen), []
        for row, (request, (episode, frame, _)) in enumerate(zip(requests, seen)):
            tokens, chosen, scores = action.tokens[row], action.chosen[row], action.scores[row]
            behaviour = None if action.behaviour is None else action.behaviour[row]
            frame.tokens, score = tokens, float(self.policy.spec.score(chosen))
            decided, stale = action.actions[row], self._is_stale(request)
            actions, limited = episode.guarded(
                decided, stale, request.taken, request.by_person(decided.shape)
            )
            if limited:
                frame.tokens = executed_bins(self.policy.spec.interface, tokens, decided, actions)
                self.policy.correct(episode.index, frame.tokens)
            decisions.append(
                Decision(actions, tokens, chosen, score, scores, episode.step, behaviour, limited, self.name)
            )
            episode.step += 1
        return decisions

    def _rank(self, request: Request, embedding: np.ndarray) -> Ranking:
        """Ranks the candidates of a request whose session is open."""
        seen = self._look([request], [embedding])
        inputs, step = self._inputs(seen)
        q, support = self.policy.rank(*inputs, request.candidates, step)
        ((episode, _, _),) = seen
        episode.step += 1
        return Ranking(q, support, episode.step - 1, self.name)

    def _look(
        self, requests: Sequence[Request], embeddings: Sequence[np.ndarray]
    ) -> list[tuple[Episode, Frame, bool]]:
        """Adds to each session's episode what it sees now, and returns that as `_step` takes it."""
        episodes = [self._episodes[request.session] for request in requests]
        rows = []
        for request, embedding, episode in zip(requests, embeddings, episodes):
            self._lost.discard(request.session)
            if request.reset:
                episode.begin()
            if not episode.step:
                episode.seed = request.seed or 0
            before = episode.embedding
            changed = episode.step > 0 and before is not None and not np.array_equal(embedding, before)
            episode.embedding = own_copy(embedding)
            images = {name: own_copy(image) for name, image in request.images.items()}
            tokens = undecided(self.policy.spec, 1)[0]
            step = episode.step * self.policy.spec.interface.execute  # the environment's
            episode.frames.append(Frame(images, own_copy(request.state), tokens, step))
            rows.append(list(episode.frames)[0 if changed else -1 :])

        # Windows under a new instruction are encoded again, each with its first frame as an episode's first.
        for place in range(max(map(len, rows)) - 1):
            again = [(e, row, place == 0) for e, row in zip(episodes, rows) if place < len(row) - 1]
            self._step([(e, row[place], first) for e, row, first in again])
        return [(e, row[-1], e.step == 0) for e, row in zip(episodes, rows)]

    def values(self, session: Hashable, instructions: Sequence[str | np.ndarray]) -> np.ndarray:
        """Estimates what each instruction could attain from the session's last observation, float32 [K].

        It is the maximum over the bins of the dim that is decided first, in a window encoded under that
        instruction.

        Uses a free or reserved episode for each instruction, in turns where there are fewer.

        Raises:
            Refused: `no_values`, `unknown_session`, `sessions_full` if no episode is free, or
                `bad_observation` for what is no list of instructions.

        """
        if self.policy.spec.score_name != "Q":
            raise Refused(
                "no_values", f"This policy's scores are of kind {self.policy.spec.score_name!r}, no values."
            )
        if session not in self._episodes:
            raise Refused("unknown_session", "This session has no observation yet; send one first.")
        if isinstance(instructions, str):  # whose letters would be valued
            raise Refused("bad_observation", f"The instructions are {instructions[:50]!r}, expected a list.")
        spare = self._reserved + self._free
        if not spare:
            raise full(self.limit)
        frames, values = list(self._episodes[session].frames), [np.zeros(0, np.float32)]
        last = frames[-1]
        embeddings = [self._checked(text, last.images, last.state) for text in instructions]
        for start in range(0, len(embeddings), len(spare)):
            part = embeddings[start : start + len(spare)]
            asked = [Episode(index, collections.deque(), vector) for index, vector in zip(spare, part)]
            for place, frame in enumerate(frames):
                action = self._step([(episode, frame, place == 0) for episode in asked])
            values.append(action.scores[:, self.policy.spec.decided[0]].max(-1))
        return np.concatenate(values)

    def embedding(self, instruction: str | np.ndarray) -> np.ndarray:
        """Returns a sentence's embedding, float32 [E]; an array is taken for one as it is.

        Raises:
            UserError: if it is empty, or no sentence; and that of `embed`.

        """
        if isinstance(instruction, np.ndarray):
            return instruction
        if not isinstance(instruction, str) or not instruction.strip():
            found, size = shown(instruction), self.policy.spec.interface.instruction_dim
            expected = f"a sentence such as 'open the drawer', or its embedding, floating[{size}]"
            raise UserError(f"Observation field instruction is {found}, the policy expects {expected}.")
        return np.asarray(self._embed(instruction), np.float32)

    def _admit(self, request: Request) -> np.ndarray:
        """Opens a request's session and returns its embedding. Raises Refused: why it cannot be served."""
        embedding = self._checked(request.instruction, request.images, request.state, request.keys)
        if request.candidates is not None:
            try:
                candidates.tokens(self.policy.spec, request.candidates)
            except UserError as error:
                raise Refused("bad_observation", str(error)) from error
        self._check_limits(request)
        if request.session in self._lost and not request.reset:
            raise Refused("episode_lost", "The server failed in this episode; begin a new one with reset.")
        if request.session not in self._episodes:
            if not self._free:
                raise full(self.limit)
            self._episodes[request.session] = Episode.open(self._free.pop(), self.policy.spec)
        return embedding

    def _is_stale(self, request: Request) -> bool:
        limits = self.policy.spec.limits
        if limits is None or limits.stale_ms is None:
            return False
        return request.age_ms is not None and request.age_ms > limits.stale_ms

    def _check_limits(self, request: Request) -> None:
        """Raises Refused for what was done before and cannot be, or what the limits need and is missing."""
        limits, most = self.policy.spec.limits, self.policy.spec.interface.execute
        if request.taken is not None and not 1 <= request.taken <= most:
            raise Refused("bad_observation", f"'taken' is {request.taken}, expected 1 to {most} actions.")
        request.by_person((self.policy.spec.interface.executed.dims,))
        if limits is None or limits.stale_ms is None or request.candidates is not None:
            return
        if request.age_ms is None:
            raise Refused(
                "bad_observation",
                "Observation has no 'age_ms', which the policy's limits need; send its age in milliseconds.",
            )
        guard = self._guard(request.session)
        if self._is_stale(request) and (request.reset or guard is None or guard.last is None):
            raise Refused(
                "stale",
                f"The observation is {request.age_ms:g} ms old, the limits allow {limits.stale_ms:g}, and "
                "the episode has no action yet that could be held; send a newer one.",
            )

    def _guard(self, session: Hashable) -> Guard | None:
        """Returns the limits of a session's robot, if there are some."""
        return self._episodes[session].guard if session in self._episodes else None

    def fall_back(self, session: Hashable) -> np.ndarray | None:
        """Returns what a session's robot does for a control step after a refusal, float32 [dims].

        It counts as executed. None: the policy's limits do not say, or the robot has not moved yet.
        """
        limits, guard = self.policy.spec.limits, self._guard(session)
        if limits is None or not limits.on_refused or guard is None or guard.last is None:
            return None
        return guard.fall_back("refused")[0]

    def _checked(
        self,
        instruction: str | np.ndarray,
        images: dict[str, np.ndarray],
        state: np.ndarray,
        keys: Mapping[str, str] | None = None,
    ) -> np.ndarray:
        """Returns the embedding. Raises Refused naming what the policy does not take."""
        try:
            embedding = self.embedding(instruction)
            check(self.policy.spec, images, state, embedding, keys=keys)
        except Refused:
            raise
        except UserError as error:
            raise Refused("bad_observation", str(error)) from error
        return embedding

    def _step(self, rows: Sequence[tuple[Episode, Frame, bool]]) -> Action:
        inputs, step = self._inputs(rows)
        executed = np.stack([frame.tokens for _, frame, _ in rows])
        uniforms = self._drawn([episode for episode, _, _ in rows])
        return self.policy.act(*inputs, executed, uniforms=uniforms, step=step)

    def _inputs(self, rows: Sequence[tuple[Episode, Frame, bool]]) -> tuple[_Inputs, np.ndarray | None]:
        """Returns what `Runtime.act` and `rank` take first of these rows, and their steps."""
        episodes, frames, is_first = zip(*rows)
        images = {
            name: _stacked([frame.images[name] for frame in frames])
            for name in self.policy.spec.interface.observation.cameras
        }
        state = _stacked([frame.state for frame in frames])
        embeddings = _stacked([episode.embedding for episode in episodes])
        indices = np.asarray([episode.index for episode in episodes])
        step = np.asarray([frame.step for frame in frames], np.int32) if self.policy.spec.timesteps else None
        return (indices, images, state, embeddings, np.asarray(is_first)), step

    def _drawn(self, episodes: Sequence[Episode]) -> np.ndarray | None:
        """Draws what the policy decides by, from each episode's seed and the number of its decision alone.

        So an episode repeats itself in any runtime, and however it shares batches with others.
        """
        spec = self.policy.spec
        if not spec.decoding.draws:
            return None
        shape = spec.decoding.count, spec.interface.decision.dims
        generators = [np.random.default_rng((episode.seed, episode.step)) for episode in episodes]
        return np.stack([generator.random(shape, np.float32) for generator in generators])


def full(limit: int) -> Refused:
    """Returns the refusal of a session beyond so many."""
    more = "`serve --max_sessions`, `load_policy(robots=)`"
    return Refused("sessions_full", f"All {limit} sessions are in use; close one, or allow more ({more}).")


def _check_once_each(requests: Sequence[Request]) -> None:
    if len({request.session for request in requests}) < len(requests):
        raise ValueError("A session may ask once a batch.")


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Does as `np.stack`, without the copy where there is one row, such as a lone robot's image."""
    return rows[0][None] if len(rows) == 1 else np.stack(rows)
