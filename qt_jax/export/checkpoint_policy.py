"""A training checkpoint as a policy that acts in this process."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.policy.jax_policy import Decode, Encode, Judge, Policy
from qt_jax.safety import SafetyLimits
from qt_jax.specs import GREEDY, Decoding, Interface, PolicySpec
from qt_jax.statistics import Statistics
from qt_jax.training import checkpoints
from qt_jax.training.assets import Assets, frozen_config


@dataclasses.dataclass(frozen=True)
class Programs:
    """What a `Policy` is made of beside the parameters."""

    spec: PolicySpec
    statistics: Statistics
    encode: Encode
    decode: Decode
    judge: Judge | None
    """Of a policy that ranks candidates."""

    def policy(self, params: Any, capacity: int) -> Policy:
        """Returns the `Policy` of these parameters, of `capacity` episodes at once."""
        programs = self.encode, self.decode, capacity
        return Policy(self.spec, self.statistics, jax.device_put(params), *programs, judge=self.judge)


def programs(
    assets: Assets,
    dataset: str = "collected",
    decoding: Decoding = GREEDY,
    candidates: int = 0,
    limits: SafetyLimits | None = None,
) -> Programs:
    """Makes the policy of the robot of one dataset.

    What this robot lacks of the network's action, cameras and state is masked as in training.

    Args:
        assets: of the checkpoint.
        dataset: whose robot acts.
        decoding: how an action is decided.
        candidates: most actions of somebody else that it ranks at once.
        limits: what may be executed; None: all that is decided.

    Raises:
        UserError: if the checkpoint was not trained on that dataset, or lacks what deciding or ranking needs;
            or the limits are not of its robot.

    """
    if dataset not in assets.datasets:
        raise UserError(
            f"The policy was trained on the datasets {sorted(assets.datasets)}, not on {dataset!r}; name the "
            "one whose robot acts: --dataset=NAME."
        )
    config: Any = frozen_config(assets.config)
    robot, joint = assets.datasets[dataset], assets.interface
    own = robot.interface
    resized = dataclasses.replace(own.observation, image_size=joint.observation.image_size)
    ensemble = agents.make_ensemble(config, joint)
    spec = PolicySpec(
        interface=dataclasses.replace(own, observation=resized),
        network_dims=own.decision.dims_in(joint.decision),
        window=config.model.window,
        text_encoder=assets.text_encoder,
        score_name=agents.get(config.agent.name).SCORE_NAME,
        dt=robot.dt,
        target_return=robot.target_return,
        decoding=decoding,
        timesteps=ensemble.network.timesteps,
        behaviour=agents.has_behaviour(config),
        candidates=candidates,
        limits=limits,
    )
    return of_robot(config, ensemble, spec, robot.state)


def of_robot(config: Any, ensemble: Ensemble, spec: PolicySpec, statistics: Statistics) -> Programs:
    """Makes the policy of an ensemble and of the robot that `spec` describes; see `programs`.

    Raises:
        UserError: if the policy is return-conditioned and `spec` has no return to ask for, or the agent lacks
            what deciding or ranking needs.

    """
    conditioned = ensemble.network.return_conditioned
    wanted = spec.target_return if conditioned else None
    if conditioned and wanted is None:
        raise UserError(
            "The policy's spec has no target_return; train it again with this version.", topic="other-version"
        )
    joint, decoding = ensemble.interface, spec.decoding
    agent = agents.get(config.agent.name)
    bins = spec.interface.decision.bins_in(joint.decision)
    bin_mask = jnp.arange(joint.decision.max_bins) < bins[:, None]

    def encode(params, images, state, instruction, *step):
        batch, observation = state.shape[0], joint.observation
        blank = jnp.zeros((batch, *observation.image_size, 3), jnp.uint8)
        seen = {camera: images.get(camera, blank) for camera in observation.cameras}
        mask = {camera: jnp.full(batch, camera in images) for camera in observation.cameras}
        padded = jnp.pad(state, [(0, 0), (0, observation.state_dim - state.shape[1])])
        asked = None if wanted is None else jnp.full(batch, wanted, jnp.float32)
        return ensemble.encode_frame(params, seen, mask, padded, instruction, asked, *step)

    def scores(logits, dim):
        found = agent.scores(config, bin_mask[dim], logits)
        if not spec.behaviour:
            return found
        log_probabilities, _ = agents.candidates(config)(bin_mask[dim], logits)
        return found, jnp.exp(log_probabilities)

    candidates = _candidates(config, bin_mask, decoding) if decoding.draws else None
    of_network = np.eye(joint.decision.dims, dtype=np.int32)[list(spec.network_dims)]

    def decode(params, cache, mask, executed, *uniforms):
        # 0 where the robot has no dim, as in training.
        inputs = params, cache, mask, executed @ of_network, scores
        if decoding.draws:
            decided = ensemble.rank(*inputs, candidates, _of_dims(uniforms[0], spec, joint), bins > 0)
        elif decoding.kind == "beam":
            decided = ensemble.beam(*inputs, decoding.count, agent.ADDITIVE, bins > 0)
        else:
            decided = ensemble.greedy(*inputs)
        return tuple(jax.tree.leaves(decided))

    return Programs(spec, statistics, encode, decode, _judge(config, ensemble, spec, bin_mask, of_network))


def _judge(
    config: Any, ensemble: Ensemble, spec: PolicySpec, bin_mask: jax.Array, of_network: np.ndarray
) -> Judge | None:
    """Returns the `judge` of a `Policy`, if it ranks candidates."""
    if not spec.candidates:
        return None
    of_agent = agents.judge(config)

    def known(logits, dims):
        support, q = of_agent(bin_mask[dims], logits)
        return q, support

    def judge(params, cache, mask, executed, tokens):
        return ensemble.judge(params, cache, mask, executed @ of_network, tokens @ of_network, known)

    return judge


def _candidates(config: Any, bin_mask: jax.Array, decoding: Decoding) -> Any:
    """Returns the `candidates` of `Ensemble.rank`: the agent's, at the decoding's temperature."""
    of_agent = agents.candidates(config, decoding.kind)

    def candidates(logits, dim):
        log_probabilities, q = of_agent(bin_mask[dim], logits)
        drawn = jnp.where(jnp.isfinite(q), log_probabilities, -jnp.inf)
        return jax.nn.softmax(drawn / decoding.temperature), q

    return candidates


def _of_dims(uniforms: jax.Array, spec: PolicySpec, joint: Interface) -> jax.Array:
    """Puts a robot's numbers [M, K, D] where the network has its dims, 0 where the robot has none."""
    columns = [jnp.zeros_like(uniforms[..., 0])] * joint.decision.dims
    for own, dim in enumerate(spec.network_dims):
        columns[dim] = uniforms[..., own]
    return jnp.stack(columns, axis=-1)


def build(
    params: dict,
    assets: Assets,
    capacity: int,
    dataset: str = "collected",
    decoding: Decoding = GREEDY,
    candidates: int = 0,
    limits: SafetyLimits | None = None,
) -> Policy:
    """Makes a Policy of `capacity` episodes at once; see `programs`."""
    made = programs(assets, dataset, decoding, candidates, limits)
    return made.policy(params, capacity)


def load(
    workdir: str, capacity: int, step: int = 0, dataset: str = "collected"
) -> tuple[Policy, Assets, int]:
    """Loads a checkpoint below `workdir` (step 0: the latest) as a policy; also its assets and step."""
    params, assets, step = checkpoints.load_params(workdir, step=step)
    return build(params, assets, capacity, dataset), assets, step
