"""A policy that acts in this process; its observation is the dict that a server takes over the socket."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from qt_jax.policy.about import metadata
from qt_jax.policy.observations import CANDIDATES, Keys, options, plain, reply
from qt_jax.policy.requests import Refused
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import PolicySpec


class LoadedPolicy:
    """Decides actions for one robot, or for several under a `session_id` each. Not thread-safe.

    A script that asks this object and one that asks `qt_jax.serving.client.Client` are the same script.

    Args:
        sessions: the policy and its episodes.
        keys: what the robot calls its cameras, state and instruction.

    """

    def __init__(self, sessions: Sessions, keys: Keys):
        self._sessions, self._keys = sessions, keys

    @property
    def spec(self) -> PolicySpec:
        """The policy's action, observation, window, score, decoding and control period."""
        return self._sessions.policy.spec

    @property
    def observation(self) -> dict[str, Any]:
        """The keys of an observation: {key: dtype and shape that are expected there}."""
        return self._keys.describe(self.spec.interface.observation)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a server of this policy would say of it."""
        return metadata(self.spec, self._keys, self._sessions.limit)

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Makes one decision.

        Args:
            observation: images uint8 [H, W, 3], state float [state_dim], the sentence under "prompt"; the
                keys are those of `observation`. Optional: "reset": True begins an episode, "session_id" tells
                robots apart, "seed" of an episode that it begins fixes what a policy draws by chance,
                "return_scores": True, "request_id", and "instruction_embedding" instead of the sentence;
                "age_ms", how old it is, is needed where the policy's limits have `stale_ms`. "intervention",
                what a person did in place of the actions before, is where the limits go on (docs/robot.md).

        Returns:
            "actions": float32 [h, dims], inside the action's bounds: execute all of them, each for a control
            step, before the next call. "tokens": int32 [D], the chosen bins of all dims of the decision.
            "scores_of_dims": float32 [D], their scores. "score": of the whole decision. "step": the number of
            the decision, from 0. "scores": float32 [D, N], where asked for. "limited": what the policy's
            safety limits altered, where they did (docs/robot.md). "session_id" and "request_id", where given.

        Raises:
            Refused: (a UserError) naming the key, what came and what is expected. The episode is as it was.
                Its `fallback` is what the robot does meanwhile, where the limits have `on_refused`.

        """
        message = dict(observation)
        try:
            asked = options(message)
            request = self._keys.request(message, asked.get("session_id"))
            (answer,) = self._sessions.act_each([request])
            if isinstance(answer, Refused):
                raise answer
        except Refused as refused:
            session = plain(message.get("session_id"))
            if isinstance(session, (str, int, type(None))):
                refused.fallback = self._sessions.fall_back(session)
            raise
        echo = {key: asked[key] for key in ("session_id", "request_id") if key in asked}
        return reply(answer, asked.get("return_scores", False)) | echo

    @property
    def candidates(self) -> int:
        """Most candidates that `rank` takes; 0: it ranks none."""
        return self.spec.candidates

    def rank(self, observation: Mapping[str, Any], candidates: Any) -> dict[str, Any]:
        """Ranks actions that somebody else proposes, in the place of a decision of its own.

        The observation is a step of the episode, as in `infer`: call one of the two at each step, or each
        under a "session_id" of its own.

        Args:
            observation: as `infer` takes it.
            candidates: numbers [K, H, dims] inside the action's bounds, K up to `candidates`. The first
                `spec.interface.chunk` actions of each are judged, later ones are not read.

        Returns:
            "q": float32 [K], Q of each whole candidate; "order": int32 [K], their numbers by Q, best first;
            "support": float32 [K], the greater the nearer to the data (`spec.support_name`); "step",
            "session_id" and "request_id" as in `infer`.

        Raises:
            Refused: as `infer`, and for candidates that the policy does not take. The episode is as it was.

        """
        return self.infer({**observation, CANDIDATES: candidates})

    def values(self, instructions: Sequence[str], session_id: Hashable = None) -> np.ndarray:
        """Estimates what each instruction could attain from the session's last observation, float32 [K].

        Raises:
            Refused: for a policy without values, or a session without an observation.

        """
        return self._sessions.values(session_id, instructions)

    def reset(self, session_id: Hashable = None) -> None:
        """Ends the session's episode: its next observation begins a new one."""
        self._sessions.close(session_id)
