"""What an action, an observation and a policy look like; needs numpy alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.safety import SafetyLimits

DEFAULT_COUNTS = {"beam": 4, "rank": 16}
"""Of the kinds of `Decoding` that have one (default of this project)."""
DECODINGS = (
    "'greedy', 'beam:4' (prefixes kept), 'sample:0.7' (drawn, at this temperature), or 'rank:16:0.7' (of so "
    "many drawn the one of greatest Q)"
)
"""Texts of a `Decoding`, for people."""
DEMONSTRATION, HUMAN = DEMONSTRATIONS = ("demonstration", "human")
"""Collectors of demonstrations: an expert or unknown, and a simulated person; others are autonomous."""
POLICY, INTERVENTION = LEARNED = ("policy", "intervention")
"""Collectors in which a trained policy acts: alone, and with a person who takes over at some steps."""


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """A continuous action of `D` dims, each cut into `bins[i]` equal bins over `[low[i], high[i]]`."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    bins: tuple[int, ...]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if not len(self.names) == len(self.low) == len(self.high) == len(self.bins):
            raise UserError(
                f"ActionSpec: names, low, high and bins have lengths {len(self.names)}, {len(self.low)}, "
                f"{len(self.high)}, {len(self.bins)}; give one entry for each action dim."
            )
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise UserError(f"ActionSpec: {twice} name more than one dim; give each a name of its own.")
        for name, low, high, bins in zip(self.names, self.low, self.high, self.bins):
            if not low < high:
                raise UserError(f"ActionSpec: dim {name!r} has low {low} >= high {high}; give low < high.")
            if not np.isfinite((low, high)).all():
                raise UserError(f"ActionSpec: dim {name!r} has bounds {low} and {high}; give finite numbers.")
            if bins < 2 or bins % 1:
                raise UserError(f"ActionSpec: dim {name!r} has {bins} bins; give at least 2, a whole number.")

    @property
    def dims(self) -> int:
        """D, how many dims it has."""
        return len(self.names)

    @property
    def max_bins(self) -> int:
        """N, the most bins of any dim."""
        return max(self.bins)

    def bin_mask(self) -> np.ndarray:
        """Returns which bins exist in each dim, bool [D, N]."""
        return np.arange(self.max_bins)[None, :] < np.asarray(self.bins)[:, None]

    def repeated(self, count: int) -> ActionSpec:
        """Returns `count` of these actions one after the other, as one action of `count` x D dims.

        The dims of the first keep their names; an x of the action k steps later is "x+k".
        """
        later = tuple(f"{name}+{k}" for k in range(1, count) for name in self.names)
        return ActionSpec(self.names + later, self.low * count, self.high * count, self.bins * count)

    def dims_in(self, network: ActionSpec) -> tuple[int, ...]:
        """Returns for each dim of this action the index of the network's dim of the same name."""
        return tuple(network.names.index(name) for name in self.names)

    def bins_in(self, network: ActionSpec) -> np.ndarray:
        """Returns the number of this action's bins in each dim of the network's, int32; 0: no such dim."""
        bins = np.zeros(network.dims, np.int32)
        bins[list(self.dims_in(network))] = self.bins
        return bins


def network_action(actions: Sequence[ActionSpec]) -> ActionSpec:
    """Returns the action of a network for several robots.

    It has every named dim once, those of the robot with most dims first, each with the most bins of any.
    Its bounds mean nothing where robots differ: each robot's own spec says what its bins are.
    """
    dims: dict[str, tuple[float, float, int]] = {}
    for action in sorted(actions, key=lambda action: -action.dims):
        for name, low, high, bins in zip(action.names, action.low, action.high, action.bins):
            known = dims.get(name, (low, high, bins))
            dims[name] = (*known[:2], max(known[2], bins))
    return ActionSpec(tuple(dims), *zip(*dims.values()))


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Camera images and a state vector."""

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    """Height and width, as stored."""
    state_dim: int
    """Length of the state vector; 0: none."""
    state_description: str

    def __post_init__(self):
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not self.cameras and not self.state_dim:
            raise UserError(
                "ObservationSpec: no camera and no state vector; a policy needs at least one of them."
            )


@dataclasses.dataclass(frozen=True)
class Interface:
    """What a network or a policy is between: what it sees, what it is told to do, what it decides."""

    action: ActionSpec
    """Of one control step."""
    observation: ObservationSpec
    instruction_dim: int
    """Length of an instruction's embedding."""
    chunk: int = 1
    """H, actions that are decided at once."""
    execute: int = 1
    """h, how many of them are executed before the next decision."""

    def __post_init__(self):
        if self.instruction_dim < 1:
            raise UserError(f"Interface: instruction_dim is {self.instruction_dim}; give 1 or more.")
        if not 1 <= self.execute <= self.chunk:
            raise UserError(
                f"Interface: chunk is {self.chunk}, execute {self.execute}; give 1 <= execute <= chunk."
            )

    @functools.cached_property
    def decision(self) -> ActionSpec:
        """A decision as one action of `chunk` x D dims: what the network has an output for."""
        return self.action.repeated(self.chunk)

    @functools.cached_property
    def executed(self) -> ActionSpec:
        """The part of a decision that is executed, as one action of `execute` x D dims."""
        return self.action.repeated(self.execute)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Interface:
        """Reads what `to_json` gave."""
        action, observation = ActionSpec(**value["action"]), ObservationSpec(**value["observation"])
        return cls(**value | {"action": action, "observation": observation})


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How an action is decided from the outputs of its dims.

    It is chosen when a checkpoint acts or is exported. As text "greedy", "beam:4", "sample:0.7" or
    "rank:16:0.7".
    """

    kind: str = "greedy"
    """Or "beam", which keeps the best prefixes; "sample": an action drawn by chance; or "rank": of several
    drawn that of greatest Q.
    """
    count: int = 1
    """Prefixes that "beam" keeps from dim to dim, or actions that "rank" draws."""
    temperature: float = 1.0
    """Of the probabilities that are drawn from; the lower, the more often the most probable bin."""

    def __post_init__(self):
        counts = self.count >= 1 and not self.count % 1 if self.kind in DEFAULT_COUNTS else self.count == 1
        warm = 0 < self.temperature < np.inf if self.draws else self.temperature == 1
        if self.kind not in ("greedy", "sample", *DEFAULT_COUNTS) or not counts or not warm:
            raise UserError(
                f"Decoding: kind is {self.kind!r}, count {self.count}, temperature {self.temperature}; "
                f"give {DECODINGS}."
            )

    @classmethod
    def read(cls, text: str) -> Decoding:
        """Reads its text; the count is 4 of "beam" and 16 of "rank" by default, the temperature 1.

        Raises:
            UserError: for what is none.

        """
        kind, _, numbers = text.partition(":")
        count, _, temperature = ("1", "", numbers) if kind == "sample" else numbers.partition(":")
        try:
            return cls(kind, int(count or DEFAULT_COUNTS.get(kind, 1)), float(temperature or 1))
        except (ValueError, UserError) as error:
            raise UserError(f"decode is {text!r}; give {DECODINGS}.") from error

    def __str__(self) -> str:
        if self.kind == "greedy":
            return self.kind
        if self.kind == "sample":
            return f"{self.kind}:{self.temperature:g}"
        return f"{self.kind}:{self.count}" + (f":{self.temperature:g}" if self.draws else "")

    @property
    def draws(self) -> bool:
        """Whether actions are drawn by chance: a decision then takes `count` random numbers for each dim."""
        return self.kind in ("sample", "rank")


GREEDY = Decoding()


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """All that the policy runtime must know beside the parameters and the two programs."""

    interface: Interface
    """The robot's own."""
    network_dims: tuple[int, ...]
    """For each dim of the robot's decision the index of the network's dim."""
    window: int
    """Frames that a decision is made from, `interface.execute` control steps apart."""
    text_encoder: str
    score_name: str
    """What greedy decoding maximises: a value only where it is "Q"."""
    dt: float
    """Seconds from one control step to the next."""
    target_return: float | None = None
    """The return that the policy is asked for (Decision Transformer); None: it takes no return."""
    decoding: Decoding = GREEDY
    """How its programs decide an action."""
    timesteps: int = 0
    """Steps of an episode that it tells apart (Decision Transformer); 0: it is not told the step."""
    behaviour: bool = False
    """Whether they also say of each bin how probable it is by the behaviour head."""
    candidates: int = 0
    """Most actions of somebody else that it ranks at once; 0: it ranks none."""
    limits: SafetyLimits | None = None
    """What may be executed (`policy.guard`); None: all that is decided."""

    def __post_init__(self):
        given, dims = self.network_dims, self.interface.decision.dims
        if len(given) != dims or len({*given}) < dims or min(given) < 0:
            raise UserError(f"PolicySpec: network_dims are {given}; give {dims} dims, each once.")
        if self.window < 1:
            raise UserError(f"PolicySpec: window is {self.window}; give 1 or more.")
        if not 0 < self.dt < np.inf:
            raise UserError(f"PolicySpec: dt is {self.dt}; give the seconds of a control step, above 0.")
        if self.timesteps < 0 or self.timesteps % 1:
            raise UserError(f"PolicySpec: timesteps is {self.timesteps}; give 0 or more, a whole number.")
        if self.candidates < 0 or self.candidates % 1:
            raise UserError(f"PolicySpec: candidates is {self.candidates}; give 0 or more, a whole number.")
        for name in ("text_encoder", "score_name"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UserError(f"PolicySpec: {name} is {getattr(self, name)!r}; give its name.")
        if self.limits is not None:
            self.limits.check(self.interface.action, self.interface.observation.state_dim)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PolicySpec:
        """Reads what `to_json` gave."""
        interface, dims = Interface.from_json(value["interface"]), tuple(value["network_dims"])
        decoding, limits = Decoding(**value["decoding"]), value.get("limits")
        read = {"interface": interface, "network_dims": dims, "decoding": decoding}
        return cls(**value | read | {"limits": None if limits is None else SafetyLimits.from_json(limits)})

    @functools.cached_property
    def decided(self) -> tuple[int, ...]:
        """The decision's dims in the order in which the network decides them; each sees those before it."""
        return tuple(np.argsort(self.network_dims).tolist())

    @property
    def support_name(self) -> str:
        """What `Ranking.support` is: a log-probability, or a share of Q (docs/robot.md)."""
        return "log-probability" if self.behaviour or self.score_name != "Q" else "share of the best Q"

    def score(self, chosen: np.ndarray) -> np.ndarray:
        """Computes the scores of whole decisions [...] from those of their chosen bins [..., D].

        Of Q-values it is that of the dim that is decided last; log-probabilities add up.
        """
        return chosen[..., self.decided[-1]] if self.score_name == "Q" else chosen.sum(-1)


def to_json(spec: Any) -> dict[str, Any]:
    """Returns a spec as plain JSON types."""
    return dataclasses.asdict(spec)
