"""A training checkpoint as a policy that acts in this process."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models.q_transformer import Network
from qt_jax.policy.jax_policy import Decode, Encode, Policy
from qt_jax.specs import PolicySpec
from qt_jax.statistics import Statistics
from qt_jax.training import checkpoints


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a `Policy` is made of beside the parameters."""

    spec: PolicySpec
    statistics: Statistics
    encode: Encode
    decode: Decode


def programs(assets: checkpoints.Assets, dataset: str = "collected", beam: int = 1) -> Programs:
    """Makes the policy of the robot of one dataset.

    What this robot lacks of the network's action, cameras and state is masked as in training.

    Args:
        assets: of the checkpoint.
        dataset: whose robot acts.
        beam: prefixes kept from dim to dim; 1: greedy.

    Raises:
        UserError: if the checkpoint was not trained on that dataset.

    """
    if dataset not in assets.datasets:
        raise UserError(
            f"The policy was trained on the datasets {sorted(assets.datasets)}, not on {dataset!r}; name one "
            "of them."
        )
    config: Any = checkpoints.frozen_config(assets.config)
    robot, joint = assets.datasets[dataset], assets.interface
    own = robot.interface
    resized = dataclasses.replace(own.observation, image_size=joint.observation.image_size)
    spec = PolicySpec(
        interface=dataclasses.replace(own, observation=resized),
        network_dims=own.action.dims_in(joint.action),
        window=config.model.window,
        text_encoder=assets.text_encoder,
        score_name=agents.get(config.agent.name).SCORE_NAME,
        dt=robot.dt,
        target_return=robot.target_return,
    )
    return of_robot(config, agents.make_network(config, joint), spec, robot.state, beam)


def of_robot(config: Any, network: Network, spec: PolicySpec, statistics: Statistics, beam: int) -> Programs:
    """Makes the policy of a network and of the robot that `spec` describes; see `programs`.

    Raises:
        UserError: if the policy is return-conditioned, and `spec` has no return to ask for.

    """
    wanted = spec.target_return if network.return_conditioned else None
    if network.return_conditioned and wanted is None:
        raise UserError("The policy's spec has no target_return; train it again with this version.")
    joint = network.interface
    agent = agents.get(config.agent.name)
    bins = jnp.asarray(spec.interface.action.bins_in(joint.action))
    bin_mask = jnp.arange(joint.action.max_bins) < bins[:, None]

    def encode(params, images, state, instruction):
        batch, observation = state.shape[0], joint.observation
        blank = jnp.zeros((batch, *observation.image_size, 3), jnp.uint8)
        seen = {camera: images.get(camera, blank) for camera in observation.cameras}
        mask = {camera: jnp.full(batch, camera in images) for camera in observation.cameras}
        padded = jnp.pad(state, [(0, 0), (0, observation.state_dim - state.shape[1])])
        asked = None if wanted is None else jnp.full(batch, wanted, jnp.float32)
        return network.encode_frame(params, seen, mask, padded, instruction, asked)

    def decode(params, cache, mask, executed):
        def scores(logits, dim):
            return agent.scores(config, bin_mask[dim], logits)

        # 0 where the robot has no dim, as in training.
        past = executed @ np.eye(joint.action.dims, dtype=np.int32)[list(spec.network_dims)]
        if beam == 1:
            return network.greedy(params, cache, mask, past, scores)
        return network.beam(params, cache, mask, past, scores, beam, agent.ADDITIVE, np.asarray(bins) > 0)

    return Programs(spec, statistics, encode, decode)


def build(
    params: dict, assets: checkpoints.Assets, capacity: int, dataset: str = "collected", beam: int = 1
) -> Policy:
    """Makes a Policy of `capacity` episodes at once; see `programs`."""
    made = programs(assets, dataset, beam)
    return Policy(made.spec, made.statistics, jax.device_put(params), made.encode, made.decode, capacity)


def load(
    workdir: str, capacity: int, step: int = 0, dataset: str = "collected"
) -> tuple[Policy, checkpoints.Assets, int]:
    """Loads a checkpoint below `workdir` (step 0: the latest) as a policy; also its assets and step."""
    params, assets, step = checkpoints.load_params(workdir, step=step)
    return build(params, assets, capacity, dataset), assets, step
