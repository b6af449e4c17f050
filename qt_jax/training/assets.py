"""What a checkpoint holds beside parameters: what makes them usable, and how a config is kept."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import ml_collections

import qt_jax
from qt_jax import agents, specs
from qt_jax.errors import UserError, require_format
from qt_jax.models import images, q_transformer
from qt_jax.specs import Interface
from qt_jax.statistics import Statistics
from qt_jax.training.continuing import with_defaults

SCHEMA = 4
"""Version of a checkpoint's items, and of what `Assets.to_json` gives.

It is raised where an older checkpoint would mean something else. A new setting is no such change: its default
is what the code did before.
"""


@dataclasses.dataclass(frozen=True)
class DatasetAssets:
    """What a robot of one dataset needs."""

    interface: Interface
    """The robot's own."""
    state: Statistics
    """Of its raw states."""
    actions: Statistics
    dt: float
    """Seconds of a control step."""
    target_return: float | None = None
    """What a return-conditioned policy is asked for there."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON types, which `from_json` reads."""
        return {
            "interface": specs.to_json(self.interface),
            "state": self.state.to_json(),
            "actions": self.actions.to_json(),
            "dt": self.dt,
            "target_return": self.target_return,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DatasetAssets:
        """Reads what `to_json` gave."""
        interface = Interface.from_json(value["interface"])
        state, actions = Statistics.from_json(value["state"]), Statistics.from_json(value["actions"])
        return cls(interface, state, actions, value["dt"], value["target_return"])


@dataclasses.dataclass(frozen=True)
class Assets:
    """What makes parameters usable."""

    interface: Interface
    """The network's."""
    datasets: dict[str, DatasetAssets]
    text_encoder: str
    config: dict[str, Any]
    """The experiment's, as JSON types."""
    data_fingerprint: str
    data: dict[str, Any]
    """Successes in the whole dataset, whatever was filtered: {task or "all": {"success", "episodes"}}."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON types, which `from_json` reads."""
        return {
            "schema": SCHEMA,
            "version": qt_jax.__version__,
            "interface": specs.to_json(self.interface),
            "datasets": {name: dataset.to_json() for name, dataset in self.datasets.items()},
            "text_encoder": self.text_encoder,
            "config": self.config,
            "data_fingerprint": self.data_fingerprint,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], where: Any) -> Assets:
        """Reads what `to_json` gave; settings of agent and model that came later have their defaults.

        Args:
            value: the JSON.
            where: the checkpoint's directory, for messages.

        Raises:
            UserError: if another version wrote it, or its agent or image encoder is not here.

        """
        again = "train it again with this version"
        require_format(f"{where} is a checkpoint", value.get("schema"), SCHEMA, again)
        saved = value["config"]
        try:
            agent = agents.get(saved["agent"]["name"])
            images.encoder(saved["model"]["encoder"])
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        defaults = {
            "agent": plain_config(agent.get_config()),
            "model": plain_config(q_transformer.laptop()),
        }
        return cls(
            Interface.from_json(value["interface"]),
            {name: DatasetAssets.from_json(dataset) for name, dataset in value["datasets"].items()},
            value["text_encoder"],
            with_defaults(saved, defaults),
            value["data_fingerprint"],
            value["data"],
        )


def frozen_config(values: dict[str, Any]) -> ml_collections.FrozenConfigDict:
    """Returns a config as it was saved: JSON lists are tuples again."""

    def as_tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(as_tuples, value))
        return {key: as_tuples(x) for key, x in value.items()} if isinstance(value, dict) else value

    return ml_collections.FrozenConfigDict(as_tuples(values))


def plain_config(config: Any) -> dict[str, Any]:
    """Returns a config as plain JSON types."""
    return json.loads(config.to_json())
