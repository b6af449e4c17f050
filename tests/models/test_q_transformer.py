"""The properties of method.md, section 3, at two layers, in both attention modes, with a return or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models import q_transformer
from qt_jax.models.network import Network, parameter_count
from qt_jax.segment import Segment
from qt_jax.specs import ActionSpec, Interface, ObservationSpec

ACTION = ActionSpec(("x", "y", "g"), (-1.0,) * 3, (1.0,) * 3, (8, 8, 2))
WINDOW = 3
STEPS = 9


def make_network(
    attention="per_frame",
    cameras=("front",),
    state_dim=4,
    outputs=1,
    return_conditioned=False,
    timesteps=0,
    cells=1,
    chunk=1,
    execute=1,
    **overrides,
):
    config = q_transformer.laptop()
    config.patch_stages, config.image_size, config.image_tokens = ((8, 16, 1),), 16, 2
    config.layers, config.width, config.heads, config.window, config.attention = 2, 32, 2, WINDOW, attention
    config.update(overrides)
    observation = ObservationSpec(cameras, (16, 16), state_dim, "test")
    interface = Interface(ACTION, observation, 12, chunk, execute)
    return Network.create(config, interface, outputs, return_conditioned, timesteps, cells)


def make_params(network):
    """Random everywhere: what starts at zero (FiLM, age bias) must not hide a leak."""
    params = network.init(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return treedef.unflatten([x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def make_segment(steps=STEPS, batch=2, cameras=("front",), state_dim=4, seed=0, chunk=1):
    rng, action = np.random.default_rng(seed), ACTION.repeated(chunk)
    ones, zeros = np.ones((batch, steps), bool), np.zeros((batch, steps), bool)
    return Segment(
        images={name: rng.integers(0, 255, (batch, steps, 16, 16, 3), np.uint8) for name in cameras},
        camera_mask={name: np.ones(batch, bool) for name in cameras},
        state=rng.normal(size=(batch, steps, state_dim)).astype(np.float32),
        instruction=rng.normal(size=(batch, 12)).astype(np.float32),
        tokens=rng.integers(0, 2, (batch, steps, action.dims)).astype(np.int32),
        bins=np.repeat(np.int32([action.bins]), batch, axis=0),
        action_mask=np.ones((batch, steps, action.dims), bool),
        reward=np.zeros((batch, steps), np.float32), mc_return=np.zeros((batch, steps), np.float32),
        episode_return=np.ones(batch, np.float32),
        dt=np.ones((batch, steps), np.float32), step=np.tile(np.arange(steps, dtype=np.int32), (batch, 1)),
        is_first=zeros, is_last=zeros, is_terminal=zeros, valid=ones, trainable=ones,
        success=np.ones(batch, bool), relabelled=np.zeros(batch, bool),
    )  # fmt: skip


def crop(segment: Segment, start: int, stop: int) -> Segment:
    def take(x):
        return x[:, start:stop]

    fields = {f.name: getattr(segment, f.name) for f in dataclasses.fields(segment)}
    kept = {"instruction", "success", "episode_return", "relabelled", "bins", "camera_mask"}
    return Segment(**{k: v if k in kept else jax.tree.map(take, v) for k, v in fields.items()})


def scores(logits, dim):
    return jnp.where(ACTION.bin_mask()[dim % ACTION.dims], logits[..., 0], -jnp.inf)


def greedy_rollout(network, params, segment):
    """The cached rollout a policy does: one new frame a step.

    Returns tokens [B, S, D] and scores [B, S, D, N].
    """
    batch, steps = segment.tokens.shape[:2]
    window, mask, outputs = None, jnp.zeros((batch, WINDOW), bool), []
    executed = jnp.zeros((batch, WINDOW, segment.tokens.shape[2]), jnp.int32)
    encode, greedy = jax.jit(network.encode_frame), jax.jit(network.greedy, static_argnums=4)
    for t in range(steps):
        images = {name: frames[:, t] for name, frames in segment.images.items()}
        asked = segment.instruction, segment.episode_return, segment.step[:, t]
        frame = encode(params, images, segment.camera_mask, segment.state[:, t], *asked)
        if window is None:
            window = jax.tree.map(lambda x: jnp.zeros((batch, WINDOW, *x.shape[1:]), x.dtype), frame)
        window = jax.tree.map(lambda w, f: jnp.concatenate([w[:, 1:], f[:, None]], 1), window, frame)
        mask = jnp.concatenate([mask[:, 1:], jnp.ones((batch, 1), bool)], 1)
        executed = jnp.concatenate(
            [executed[:, 1:], jnp.full_like(executed[:, :1], 7)], 1
        )  # the newest's are not looked at
        outputs.append(greedy(params, window, mask, executed, scores))
        executed = executed.at[:, -1].set(outputs[-1][0])
    return tuple(np.stack(x, axis=1) for x in zip(*outputs))


MODES = {
    "per_frame": {},
    "window": {"attention": "window"},
    "return_conditioned": {"return_conditioned": True},
    # The last steps share an embedding.
    "window_timesteps": {"attention": "window", "return_conditioned": True, "timesteps": STEPS - 2},
}


@pytest.fixture(params=MODES, scope="module")
def setup(request):
    network = make_network(**MODES[request.param])
    params = make_params(network)
    score = jax.jit(network.score)
    return network, params, lambda segment: np.asarray(score(params, segment)), make_segment()


def test_shape_and_dtype(setup):
    _, _, score, segment = setup
    logits = score(segment)
    assert logits.shape == (2, STEPS, 3, 8, 1) and logits.dtype == np.float32


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_an_action_dim_changes_later_outputs_of_its_step_and_of_steps_that_know_past_actions(setup, dim):
    network, _, score, segment = setup
    tokens = segment.tokens.copy()
    tokens[:, 4, dim] = 1 - tokens[:, 4, dim]
    before, after = score(segment), score(dataclasses.replace(segment, tokens=tokens))
    changed = np.abs(before - after).max((0, 3, 4)) > 1e-5
    expected = np.zeros((STEPS, 3), bool)
    expected[4, dim + 1 :] = True
    expected[5 : 4 + WINDOW] = network.return_conditioned
    np.testing.assert_array_equal(changed, expected)


def test_a_frame_reaches_exactly_the_steps_of_its_window(setup):
    _, _, score, segment = setup
    for name in ("state", "images"):
        if name == "state":
            state = segment.state.copy()
            state[:, 3] += 1.0
            other = dataclasses.replace(segment, state=state)
        else:
            images = segment.images["front"].copy()
            images[:, 3] = 255 - images[:, 3]
            other = dataclasses.replace(segment, images={"front": images})
        changed = np.abs(score(segment) - score(other)).max((0, 2, 3, 4)) > 1e-5
        np.testing.assert_array_equal(np.flatnonzero(changed), range(3, 3 + WINDOW))


def test_q_is_the_same_for_every_cut_and_for_the_isolated_window(setup):
    network, params, score, segment = setup
    whole = score(segment)
    for start in (1, 3):
        cut = score(crop(segment, start, STEPS))
        np.testing.assert_allclose(cut[:, WINDOW - 1 :], whole[:, start + WINDOW - 1 :], atol=2e-5)
    isolated = score(crop(segment, 5, 5 + WINDOW))
    np.testing.assert_allclose(isolated[:, -1], whole[:, 5 + WINDOW - 1], atol=2e-5)


def test_cached_greedy_rollout_agrees_with_the_teacher_forced_pass(setup):
    """From the start of the episode to beyond the window.

    Q agrees on the same prefix, and the bins wherever the top two differ.
    """
    network, params, score, segment = setup
    tokens, values = greedy_rollout(network, params, segment)
    forced = score(dataclasses.replace(segment, tokens=tokens))[..., 0]
    forced = np.where(ACTION.bin_mask(), forced, -np.inf)
    np.testing.assert_allclose(values, forced, atol=5e-5)
    top = np.sort(forced, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(tokens[clear], forced.argmax(-1)[clear])


def test_a_segment_is_decoded_as_the_teacher_forced_pass_scores_it(setup):
    """At each step the segment's own earlier actions are past ones, and the step's own is not looked at."""
    network, params, score, segment = setup
    decode = jax.jit(lambda params, segment: network.decode_segment(params, segment, scores))
    tokens, values = map(np.asarray, decode(params, segment))
    for step in (0, 4, STEPS - 1):
        taken = segment.tokens.copy()
        taken[:, step] = tokens[:, step]
        forced = score(dataclasses.replace(segment, tokens=taken))[:, step, ..., 0]
        forced = np.where(ACTION.bin_mask(), forced, -np.inf)
        np.testing.assert_allclose(values[:, step], forced, atol=5e-5)
        np.testing.assert_array_equal(tokens[:, step], values[:, step].argmax(-1))


def test_the_best_of_sampled_actions_is_that_of_the_teacher_forced_pass(setup):
    """Each candidate's bins follow from its uniforms and its own earlier dims; the greatest last Q acts."""
    network, params, score, segment = setup
    rng, count = np.random.default_rng(0), 6
    first = crop(segment, 0, 1)
    images = {name: frames[:, 0] for name, frames in first.images.items()}
    asked = first.instruction, first.episode_return, first.step[:, 0]
    frame = jax.jit(network.encode_frame)(params, images, first.camera_mask, first.state[:, 0], *asked)
    window = jax.tree.map(
        lambda x: jnp.pad(x[:, None], [(0, 0), (WINDOW - 1, 0)] + [(0, 0)] * (x.ndim - 1)), frame
    )
    mask, executed = np.tile(np.arange(WINDOW) == WINDOW - 1, (2, 1)), np.zeros((2, WINDOW, 3), np.int32)
    uniforms = rng.random((2, count, 3), np.float32)

    def candidates(logits, dim):
        values = scores(logits, dim)
        return jax.nn.softmax(0.2 * values), values

    def others(logits, dim):
        return -scores(logits, dim), 2 * scores(logits, dim)

    rank = jax.jit(lambda *inputs: network.rank(*inputs[:4], others, candidates, inputs[4], np.ones(3, bool)))
    tokens, (shown, beside) = rank(params, window, mask, executed, uniforms)

    every = np.zeros((2, count, 3), np.int32)
    for dim in range(3):
        for i in range(count):
            forced = score(dataclasses.replace(first, tokens=every[:, i][:, None]))[:, 0, dim, :, 0]
            shares = np.cumsum(candidates(forced[..., None], dim)[0], axis=-1)
            every[:, i, dim] = (shares <= uniforms[:, i, dim, None]).sum(-1)
    last = np.stack(
        [score(dataclasses.replace(first, tokens=every[:, i][:, None]))[:, 0, 2, :, 0] for i in range(count)],
        axis=1,
    )
    best = np.take_along_axis(last, every[..., 2:], axis=-1)[..., 0].argmax(1)
    assert len({*map(tuple, every.reshape(-1, 3))}) > count
    np.testing.assert_array_equal(tokens, every[np.arange(2), best])
    np.testing.assert_allclose(shown[:, 2, :2], -last[np.arange(2), best][:, :2], atol=5e-5)
    np.testing.assert_array_equal(beside, -2 * shown)


def test_padding_after_the_episode_changes_nothing(setup):
    _, _, score, segment = setup
    valid = np.ones((2, STEPS), bool)
    valid[:, 6:] = False
    padded = dataclasses.replace(
        segment, valid=valid, state=np.where(valid[..., None], segment.state, 9.0).astype(np.float32)
    )
    logits = score(padded)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[:, :6], score(segment)[:, :6], atol=1e-5)


def test_the_instruction_matters(setup):
    _, _, score, segment = setup
    swapped = dataclasses.replace(segment, instruction=segment.instruction[::-1].copy())
    assert (np.abs(score(segment) - score(swapped)).max((2, 3, 4)) > 1e-3).all()


def test_absent_bins_are_never_decoded(setup):
    network, params, _, segment = setup
    tokens, _ = greedy_rollout(network, params, segment)
    assert tokens[..., 2].max() <= 1


def test_state_only_mode():
    network = make_network(cameras=())
    params = make_params(network)
    segment = make_segment(cameras=())
    assert np.isfinite(network.score(params, segment)).all()
    assert "cameras" not in params or not params["cameras"]


@pytest.mark.parametrize("name", [*q_transformer.choices(), "encoder"])
def test_an_unknown_choice_is_named_with_those_that_are_known(name):
    with pytest.raises(UserError, match=rf"config.model.{name} is 'resnet18'; expected one of \(?'?\w+'?, "):
        make_network(**{name: "resnet18"})


def test_output_starts_near_the_least_value():
    network = make_network()
    logits = network.score(network.init(jax.random.key(0)), make_segment())
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.05, atol=0.03)


def test_distributions_of_two_critics_start_alike_and_what_follows_them_at_the_least_value():
    bias = make_network(outputs=2 * 20 + 2, cells=20).init(jax.random.key(0))["head_bias"]
    falling = -np.arange(20)  # by 1 / (.05 * 20) from cell to cell
    np.testing.assert_allclose(bias[1, 2], [*falling, *falling, *[-np.log(19)] * 2], rtol=1e-5)


def test_bfloat16_keeps_parameters_and_outputs_in_float32():
    network = make_network(dtype="bfloat16")
    params = make_params(network)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    exact = make_network().score(params, make_segment())
    rough = network.score(params, make_segment())
    assert rough.dtype == jnp.float32
    assert np.abs(rough - exact).max() < 0.25 * np.abs(exact).max()


def test_each_frame_is_encoded_once():
    """FLOPs of the compiled image encoder grow with the number of frames, not with frames times window."""
    segment = make_segment()

    def flops(window):
        network = make_network(window=window, layers=1, width=8, patch_stages=((2, 64, 2),))
        compiled = jax.jit(network.score).lower(network.init(jax.random.key(0)), segment).compile()
        return compiled.cost_analysis()["flops"]

    def encoder_flops():
        network = make_network(layers=1, width=8, patch_stages=((2, 64, 2),))
        frames = 2 * STEPS
        images, seen = jnp.zeros((frames, 16, 16, 3), jnp.uint8), jnp.ones(frames, bool)
        inputs = {"front": images}, {"front": seen}, jnp.zeros((frames, 4)), jnp.zeros((frames, 12))
        compiled = jax.jit(network.encode_frame).lower(network.init(jax.random.key(0)), *inputs).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(1) < 1.1 * encoder_flops()
    assert flops(6) < 1.1 * encoder_flops()


@pytest.mark.slow
def test_paper_size_trains_on_cpu():
    """A forward pass and a few training steps.

    EfficientNet-B3, 8 layers of width 512, history 6, 8 dims of 256 bins, 300x300.
    """
    import functools

    import ml_collections

    from qt_jax.training.config import default_config
    from qt_jax.training.state import init_state, train_step

    config = default_config()
    config.model = q_transformer.paper()
    config.model.dtype = "float32"
    config.optimizer.warmup_steps, config.value_range = 1, (0.0, 1.0)
    config = ml_collections.FrozenConfigDict(config)
    action = ActionSpec(tuple("abcdefgh"), (-1.0,) * 8, (1.0,) * 8, (2,) + (256,) * 6 + (2,))
    interface = Interface(action, ObservationSpec(("front",), (300, 300), 0, ""), 512)
    ensemble = agents.make_ensemble(config, interface)
    state = init_state(config, ensemble)
    count = parameter_count(state.params)
    print(f"paper size: {count:,} parameters")
    assert 30e6 < count < 80e6
    small = make_segment(steps=7, batch=1)
    rng = np.random.default_rng(0)
    segment = dataclasses.replace(
        small,
        images={"front": rng.integers(0, 255, (1, 7, 300, 300, 3), np.uint8)},
        state=np.zeros((1, 7, 0), np.float32),
        instruction=rng.normal(size=(1, 512)).astype(np.float32), tokens=np.zeros((1, 7, 8), np.int32),
        bins=np.int32([action.bins]), action_mask=np.ones((1, 7, 8), bool),
        mc_return=np.ones((1, 7), np.float32),
    )  # fmt: skip
    step = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)
    losses = []
    for _ in range(4):
        state, metrics = step(state, segment)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
