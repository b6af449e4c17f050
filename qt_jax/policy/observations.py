"""From a robot's dict to a Request.

Keys may be renamed, so that a robot that openpi drives needs no change.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.candidates import Ranking
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.safety import LIMITS
from qt_jax.specs import INTERVENTION, ObservationSpec

OPTIONAL: dict[str, tuple[type, ...]] = {
    "reset": (bool,),
    "session_id": (str, int),
    "request_id": (str, int),
    "deadline_ms": (int, float),
    "return_scores": (bool,),
    "seed": (int,),
    "age_ms": (int, float),
    "limited": (dict,),
    "taken": (int,),
}
EMBEDDING, CANDIDATES = "instruction_embedding", "candidates"
ARRAYS = (EMBEDDING, CANDIDATES, INTERVENTION)
"""Optional keys that hold arrays."""
MAX_PROMPT = 1000


@dataclasses.dataclass(frozen=True)
class Keys:
    """What a robot calls the parts of an observation."""

    cameras: dict[str, str]
    """{the policy's camera: the robot's key}."""
    state: tuple[str, ...]
    """Keys whose values are joined to the state."""
    prompt: str = "prompt"
    """Of the instruction."""
    ignore: tuple[str, ...] = ()
    """What else the robot sends."""

    @classmethod
    def default(cls, observation: ObservationSpec) -> Keys:
        """Returns "observation/CAMERA", "observation/state" and "prompt"."""
        cameras = {name: f"observation/{name}" for name in observation.cameras}
        return cls(cameras, ("observation/state",) if observation.state_dim else ())

    @classmethod
    def read(cls, path: str, observation: ObservationSpec) -> Keys:
        """Reads a JSON file with any of this class's fields; the others are the default's.

        Raises:
            UserError: if it cannot be read, or names what the policy does not have.

        """
        default = cls.default(observation)
        try:
            given = json.loads(Path(path).read_text())
            known = {field.name for field in dataclasses.fields(cls)}
            if not isinstance(given, dict) or set(given) - known:
                raise ValueError(f"expected an object with keys among {sorted(known)}")
            for name in {"state", "ignore"} & set(given):
                if not isinstance(given[name], list) or not all(isinstance(key, str) for key in given[name]):
                    raise ValueError(f"{name!r} is {given[name]!r}, expected a list of keys")
            cameras, prompt = given.get("cameras", {}), given.get("prompt", default.prompt)
            if not isinstance(cameras, dict) or not all(isinstance(key, str) for key in cameras.values()):
                raise ValueError(
                    f"'cameras' is {cameras!r}, expected an object from the policy's cameras to the robot's "
                    "keys"
                )
            if not isinstance(prompt, str):
                raise ValueError(f"'prompt' is {prompt!r}, expected a key")
            if given.get("state") and not observation.state_dim:
                raise ValueError(
                    f"'state' is {given['state']!r}, the policy has no state; name what it need not read "
                    "under 'ignore'"
                )
            state, ignore = given.get("state", default.state), given.get("ignore", ())
            keys = cls(default.cameras | cameras, tuple(state), prompt, tuple(ignore))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"--keys={path} cannot be read ({error}).") from error
        if set(keys.cameras) != set(default.cameras):
            raise UserError(
                f"--keys={path} names cameras {sorted(keys.cameras)}, the policy has "
                f"{sorted(default.cameras)}."
            )
        taken = [
            *keys.cameras.values(),
            *keys.state,
            keys.prompt,
            *keys.ignore,
            *ARRAYS,
            *OPTIONAL,
        ]
        if twice := sorted({key for key in taken if taken.count(key) > 1}):
            raise UserError(
                f"--keys={path} uses {twice} for more than one thing, the server's own keys among them; "
                "rename them."
            )
        return keys

    def describe(self, observation: ObservationSpec) -> dict[str, Any]:
        """Returns {key: dtype and shape that are expected there}."""
        image = {"dtype": "uint8", "shape": [*observation.image_size, 3]}
        state = {
            "dtype": "float",
            "shape": [observation.state_dim],
            "description": observation.state_description,
        }
        expected: dict[str, Any] = {key: image for key in self.cameras.values()}
        if self.state:
            expected["+".join(self.state)] = state
        return expected | {self.prompt: {"dtype": "str"}}

    def observation(self, request: Request) -> dict[str, Any]:
        """Returns what a robot sends for a request: its images, state and instruction under these keys.

        Raises:
            UserError: if the state would have to be taken apart.

        """
        if len(self.state) > 1:
            raise UserError(
                f"The keys name {list(self.state)} for the state; give one, since nothing says which of its "
                "numbers belong to which."
            )
        images = {self.cameras[name]: image for name, image in request.images.items()}
        return images | {key: request.state for key in self.state} | {self.prompt: request.instruction}

    def request(self, message: dict[str, Any], session: Hashable) -> Request:
        """Makes a Request of a robot's dict.

        Raises:
            Refused: (`bad_observation`) naming the key that is missing, unknown or of a wrong type.

        """
        for key in message:
            if key not in self._known:
                raise Refused(
                    "bad_observation",
                    f"Observation has an unknown key {str(key)[:100]!r}; expected {self._expected()}.",
                )
        images = {camera: self._array(message, key) for camera, key in self.cameras.items()}
        parts = [np.atleast_1d(self._array(message, key)) for key in self.state]
        for key, part in zip(self.state, parts):
            if part.ndim != 1 or part.dtype.kind not in "fiu":
                raise Refused(
                    "bad_observation",
                    f"Observation key {key!r} is {part.dtype}{list(part.shape)}, expected a vector.",
                )
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, which is refused
            state = np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)
        called = self._fields | {"instruction": EMBEDDING if EMBEDDING in message else self.prompt}
        reset, seed = message.get("reset", False), message.get("seed")
        candidates, intervention = (
            self._array(message, key) if key in message else None for key in (CANDIDATES, INTERVENTION)
        )
        instruction = self._instruction(message)
        return Request(
            *(session, images, state, instruction, reset, seed, called, candidates, intervention),
            age_ms=message.get("age_ms"),
            limited=message.get("limited", {}),
            taken=message.get("taken"),
        )

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.cameras.values(), *self.state, *self.ignore, self.prompt, *ARRAYS, *OPTIONAL))

    @functools.cached_property
    def _fields(self) -> dict[str, str]:
        """The robot's names of the fields that `runtime.check` names."""
        images = {f"images[{camera!r}]": key for camera, key in self.cameras.items()}
        return images | {"state": "+".join(self.state)}

    def _instruction(self, message: dict[str, Any]) -> str | np.ndarray:
        if EMBEDDING in message:
            return self._array(message, EMBEDDING)
        prompt = message.get(self.prompt, "")
        if not isinstance(prompt, str) or not 0 < len(prompt.strip()) or len(prompt) > MAX_PROMPT:
            raise Refused(
                "bad_observation",
                f"Observation key {self.prompt!r} is {str(prompt)[:50]!r}, expected a sentence of 1 to "
                f"{MAX_PROMPT} letters.",
            )
        return prompt

    def _array(self, message: dict[str, Any], key: str) -> np.ndarray:
        if key not in message:
            raise Refused(
                "bad_observation", f"Observation key {key!r} is missing; expected {self._expected()}."
            )
        value = message[key]
        if not isinstance(value, (np.ndarray, np.generic, list, int, float)):
            raise Refused(
                "bad_observation", f"Observation key {key!r} is a {type(value).__name__}, expected an array."
            )
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise Refused(
                "bad_observation", f"Observation key {key!r} holds {array.dtype}, expected numbers."
            )
        return array

    def _expected(self) -> list[str]:
        return [*self.cameras.values(), *self.state, self.prompt]


def plain(value: Any) -> Any:
    """Returns a numpy scalar, or an array without dims, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 else value


def options(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the optional keys that are there, and makes plain values of them in `message`.

    Raises:
        Refused: (`bad_observation`) naming one of a wrong type.

    """
    for key, kind in OPTIONAL.items():
        if key not in message:
            continue
        value = message[key] = plain(message[key])
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
            names = " or ".join(one.__name__ for one in kind)
            raise Refused(
                "bad_observation", f"Optional key {key!r} is {str(value)[:50]!r}, expected {names}."
            )
        if isinstance(value, str) and len(value) > 100:
            raise Refused("bad_observation", f"Optional key {key!r} is longer than 100 letters.")
    deadline = message.get("deadline_ms", 1)
    if not 0 < deadline < float("inf"):
        raise Refused(
            "bad_observation", f"Optional key 'deadline_ms' is {deadline}, expected milliseconds above 0."
        )
    if message.get("seed", 0) < 0:
        raise Refused("bad_observation", f"Optional key 'seed' is {message['seed']}, expected 0 or more.")
    if not 0 <= (age := message.get("age_ms", 0)) < float("inf"):
        raise Refused("bad_observation", f"Optional key 'age_ms' is {age}, expected milliseconds from 0 on.")
    for limit, count in message.get("limited", {}).items():
        if limit not in LIMITS or type(count) is not int or count < 1:
            raise Refused(
                "bad_observation",
                f"Optional key 'limited' has {str(limit)[:50]!r}: {str(count)[:50]!r}, expected counts of "
                f"{', '.join(LIMITS)}.",
            )
    return {key: message[key] for key in OPTIONAL if key in message}


def reply(decision: Decision | Ranking, with_scores: bool) -> dict[str, Any]:
    """Returns an answer as a robot gets it; `LoadedPolicy.infer` and `rank` say what is in it."""
    own = {"step": decision.step} | ({"policy": decision.policy} if decision.policy else {})
    if isinstance(decision, Ranking):
        return {"q": decision.q, "order": decision.order, "support": decision.support} | own
    message = {
        "actions": decision.actions,
        "tokens": decision.tokens,
        "scores_of_dims": decision.chosen,
        "score": decision.score,
    } | own
    if with_scores:  # -inf, of bins that are not there, is no JSON number
        message["scores"] = np.maximum(decision.scores, np.finfo(np.float32).min)
    if decision.limited:
        message["limited"] = [one.to_json() for one in decision.limited]
    return message
