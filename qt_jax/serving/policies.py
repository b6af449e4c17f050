"""The policies of one server: which of them has which episode, and what became of their episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.about import metadata
from qt_jax.policy.candidates import Ranking
from qt_jax.policy.observations import Keys
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.policy.sessions import Sessions, full
from qt_jax.specs import PolicySpec


@dataclasses.dataclass(eq=False)
class Served:
    """A policy with its episodes, whose `Sessions.name` tells it from others.

    Attributes:
        sessions: its episodes.
        about: what the server says of it beside its specs: "artefact", and where it is known "training".

    """

    sessions: Sessions
    about: dict[str, Any]

    @property
    def spec(self) -> PolicySpec:
        """What the policy is."""
        return self.sessions.policy.spec


@dataclasses.dataclass
class _Tally:
    """What became of a policy's episodes; it stays when the policy is gone.

    Attributes:
        metadata: of the policy.
        episodes: how many began.
        labelled: how many the operator labelled.
        successes: how many of these succeeded.

    """

    metadata: dict[str, Any]
    episodes: int = 0
    labelled: int = 0
    successes: int = 0


class Policies:
    """One policy, or two that share the episodes; each may be replaced by a newer one.

    An episode stays with the policy that began it, and a policy that was replaced is let go with its last
    episode. Which of two begins an episode is drawn by the episode's seed, or by its number on this server
    where the robot gives none: so it repeats itself, and does not follow the order in which tasks are tried.

    Not thread-safe but for `report`, `describe`, `in` and `len`.

    Args:
        served: one or two, with one limit of sessions. What a robot relies on must be the same
            (`check_same`).
        share: of the episodes that the second one gets, between 0 and 1.
        keys: what robots call their cameras, state and prompt; default: `Keys.default`.

    Raises:
        UserError: if robots cannot take the two policies for one, or they are the same.

    """

    def __init__(self, served: Sequence[Served], share: float = 0.0, keys: Keys | None = None):
        self._current, self._share = [*served], share
        self._of: dict[Hashable, Served] = {}
        self._begun = 0
        self._tallies: dict[str, _Tally] = {}
        self.keys = keys or Keys.default(self.spec.interface.observation)
        for one in served:
            self._tallies[one.sessions.name] = _Tally(self._metadata(one))
        for place, one in enumerate(served):
            self._check(place, one)

    @property
    def spec(self) -> PolicySpec:
        """What the first policy is."""
        return self._current[0].spec

    @property
    def limit(self) -> int:
        """Sessions at once, of all policies together."""
        return self._current[0].sessions.limit

    @property
    def capacity(self) -> int:
        """Robots in a batch at most."""
        return self._current[0].sessions.policy.capacity

    def __len__(self) -> int:
        return sum(len(one.sessions) for one in {*self._of.copy().values()})

    def __contains__(self, session: Hashable) -> bool:
        """Whether its episode is under way, or was lost and has not begun anew."""
        return session in self._of

    def _metadata(self, served: Served) -> dict[str, Any]:
        described = metadata(served.spec, self.keys, served.sessions.limit)
        return served.about | {"fingerprint": served.sessions.name} | described

    def _check(self, place: int, new: Served) -> None:
        """Raises a UserError if a policy cannot stand beside the others than that of its place."""
        check_same(self.spec, new.spec, new.about["artefact"])
        for other in self._current[:place] + self._current[place + 1 :]:
            if other.sessions.name == new.sessions.name:
                what = f"{new.about['artefact']} is the policy {new.sessions.name} a second time"
                raise UserError(f"{what}, expected another one; give another artefact.")

    def replace(self, place: int, new: Served) -> None:
        """Has a newer policy begin the episodes in the place of an older one.

        Raises:
            UserError: if robots could not take it for the older one, or it is the other one of two.

        """
        self._check(place, new)
        self._tallies.setdefault(new.sessions.name, _Tally(self._metadata(new)))
        self._current[place] = new

    def act_each(self, requests: Sequence[Request]) -> list[Decision | Ranking | Refused]:
        """Does as `Sessions.act_each`, each request by the policy of its episode, one after another."""
        chosen = self._choose(requests)
        results: list[Any] = [*chosen]
        for one in {id(found): found for found in chosen if isinstance(found, Served)}.values():
            rows = [row for row, found in enumerate(chosen) if found is one]
            for row, answer in zip(rows, one.sessions.act_each([requests[row] for row in rows])):
                results[row] = answer
                if not isinstance(answer, Refused):
                    self._keep(requests[row].session, one, begins=answer.step == 0)
        return results

    def _choose(self, requests: Sequence[Request]) -> list[Served | Refused]:
        """Returns the policy of each request's episode; of one that begins, draws it."""
        chosen: list[Served | Refused] = []
        several = len({*self._current, *self._of.values()}) > 1  # of one the sessions say it themselves
        begin = new = 0
        for request in requests:
            mine = self._of.get(request.session)
            if mine is not None and not request.reset:
                chosen.append(mine)
            elif mine is None and several and len(self) + new >= self.limit:
                chosen.append(full(self.limit))
            else:
                chosen.append(self._draw(request.seed, self._begun + begin))
                begin, new = begin + 1, new + (mine is None)
        return chosen

    def _draw(self, seed: int | None, number: int) -> Served:
        """Returns which policy begins the episode of this seed, or of this number if it has no seed."""
        if len(self._current) == 1:
            return self._current[0]
        generator = np.random.default_rng((seed is None, number if seed is None else seed))
        return self._current[generator.random() < self._share]

    def _keep(self, session: Hashable, served: Served, begins: bool) -> None:
        before, self._of[session] = self._of.get(session), served
        if before is not None and before is not served:
            before.sessions.close(session)
        if begins:
            self._begun += 1
            self._tallies[served.sessions.name].episodes += 1

    def close(self, session: Hashable) -> None:
        """Forgets a session's episode, if it has one."""
        if (served := self._of.pop(session, None)) is not None:
            served.sessions.close(session)

    def lose_all(self) -> None:
        """Requires a new episode of every session: see `Sessions.lose_all`."""
        for served in {*self._current, *self._of.values()}:
            served.sessions.lose_all()

    def values(self, session: Hashable, instructions: Sequence[str | np.ndarray]) -> np.ndarray:
        """Does as `Sessions.values`, by the policy of the session's episode."""
        return self._of.get(session, self._current[0]).sessions.values(session, instructions)

    def fall_back(self, session: Hashable) -> np.ndarray | None:
        """Does as `Sessions.fall_back`, by the policy of the session's episode."""
        return self._of.get(session, self._current[0]).sessions.fall_back(session)

    def embedding(self, instruction: str | np.ndarray) -> np.ndarray:
        """Does as `Sessions.embedding`; all policies have the same text encoder."""
        return self._current[0].sessions.embedding(instruction)

    def label(self, name: str, success: bool) -> None:
        """Counts an episode that the operator labelled, by the name of its policy."""
        self._tallies[name].labelled += 1
        self._tallies[name].successes += success

    def describe(self, name: str = "") -> dict[str, Any]:
        """Returns the metadata of a policy, also of one that is gone; "" and unknown names: of the first."""
        return self._tallies.get(name, self._tallies[self._current[0].sessions.name]).metadata

    def report(self) -> list[dict[str, Any]]:
        """Returns for each policy, in the order in which they came, what the page shows of it.

        It is "artefact", "fingerprint", "step" of its training, "share" of the episodes that begin (0: it was
        replaced), "under_way" (sessions), "episodes", "labelled" and "successes".
        """
        shares = [1 - self._share, self._share] if len(self._current) > 1 else [1.0]
        share = {one.sessions.name: part for one, part in zip(self._current, shares)}
        under_way = [one.sessions.name for one in self._of.copy().values()]
        return [
            {
                "artefact": tally.metadata["artefact"],
                "fingerprint": name,
                "step": tally.metadata.get("training", {}).get("step"),
                "share": share.get(name, 0.0),
                "under_way": under_way.count(name),
                "episodes": tally.episodes,
                "labelled": tally.labelled,
                "successes": tally.successes,
            }
            for name, tally in self._tallies.copy().items()
        ]


def check_same(spec: PolicySpec, other: PolicySpec, name: str) -> None:
    """Checks that robots may take a policy for another: they learn what it is when they connect.

    Args:
        spec: of the policy that is served.
        other: of the other one.
        name: of the other one.

    Raises:
        UserError: naming what differs.

    """
    expected, found = _relied_on(spec), _relied_on(other)
    for part, value in expected.items():
        if found[part] != value:
            what = f"{name} has {part} {found[part]}, the policy that is served {value}"
            raise UserError(
                f"{what}; robots rely on it from when they connect: serve it by a server of its own."
            )


def _relied_on(spec: PolicySpec) -> dict[str, Any]:
    own, seen = spec.interface, spec.interface.observation
    return {
        "action dims": list(own.action.names),
        "least actions": list(own.action.low),
        "greatest actions": list(own.action.high),
        "cameras": sorted(seen.cameras),
        "image size": list(seen.image_size),
        "state dims": seen.state_dim,
        "instruction dims": own.instruction_dim,
        "text encoder": spec.text_encoder,
        "control period": spec.dt,
        "actions a decision": own.execute,
        "safety limits": spec.limits,
        "candidates": spec.candidates,
        "window of one frame": spec.window == 1,
    }
