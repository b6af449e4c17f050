"""Episodes under way: the window across control steps, new instructions, beginnings, what is refused."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from qt_jax import discretization
from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused, Request
from qt_jax.policy.sessions import Sessions
from tests.models.test_q_transformer import WINDOW, make_network, make_params, make_segment, scores
from tests.policy.table_policy import TablePolicy
from tests.policy.test_jax_policy import make_policy

RNG = np.random.default_rng(0)
EMBEDDINGS = {text: RNG.normal(size=12).astype(np.float32) for text in ("open", "close", "push")}


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def policy(network):
    policy = make_policy(network, make_params(network), capacity=3, buckets=(1, 3), candidates=5)
    policy.warm_up()
    return policy


def frames_of(seed, count):
    segment = make_segment(count, batch=1, seed=seed)
    return [({"front": segment.images["front"][0, t]}, segment.state[0, t]) for t in range(count)]


def played(sessions, session, frames, instructions, reset=False):
    asked = [
        Request(session, images, state, text, reset and t == 0)
        for t, ((images, state), text) in enumerate(zip(frames, instructions))
    ]
    return [sessions.act([request])[0] for request in asked]


def test_sessions_do_not_disturb_each_other(policy):
    """Three episodes begun out of step and batched as they come, against each one alone."""
    episodes = {name: frames_of(number, 8) for number, name in enumerate("abc")}
    instructions = {"a": "open", "b": "close", "c": "push"}
    alone = {
        name: played(Sessions(policy, EMBEDDINGS.get), name, episodes[name], [text] * 8)
        for name, text in instructions.items()
    }
    sessions, found = Sessions(policy, EMBEDDINGS.get), {name: [] for name in "abc"}
    for turn in range(12):
        asking = [name for number, name in enumerate("abc") if 0 <= turn - 2 * number < 8]
        requests = [Request(name, *episodes[name][len(found[name])], instructions[name]) for name in asking]
        for name, decision in zip(asking, sessions.act(requests)):
            found[name].append(decision)
    for name in "abc":
        for one, other in zip(alone[name], found[name]):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
            assert one.step == other.step


@pytest.mark.parametrize("change", [1, WINDOW + 3])
def test_a_new_instruction_is_as_if_the_whole_window_had_it(policy, change):
    """FiLM and the instruction's token reach every frame: those of the window are encoded anew."""
    frames = frames_of(5, change + 2)
    changed = played(Sessions(policy, EMBEDDINGS.get), 0, frames, ["open"] * change + ["close"] * 2)
    always = played(Sessions(policy, EMBEDDINGS.get), 0, frames, ["close"] * (change + 2))
    for one, other in zip(changed[change:], always[change:]):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert np.abs(changed[0].chosen - always[0].chosen).max() > 1e-3


@pytest.mark.parametrize("timesteps", [0, WINDOW + 1])
def test_a_window_encoded_again_remembers_the_actions_that_were_executed(timesteps):
    """Not those that the policy would have chosen under the new instruction; and each frame its step."""
    network = make_network(return_conditioned=True, timesteps=timesteps)
    params, segment = make_params(network), make_segment(WINDOW + 1, batch=1, seed=5)
    policy = make_policy(network, params, capacity=2)
    sessions = Sessions(policy, EMBEDDINGS.get)
    played(sessions, 0, frames_of(6, 2), ["open"] * 2)
    frames, instructions = frames_of(5, WINDOW + 1), ["open"] * WINDOW + ["close"]
    decisions = played(sessions, 0, frames, instructions, reset=True)
    done = np.stack([decision.tokens for decision in decisions])[None]
    closing = dataclasses.replace(segment, instruction=EMBEDDINGS["close"][None], tokens=done)
    forced = np.asarray(jax.jit(network.score)(params, closing))[0, -1, :, :, 0]
    present = network.interface.action.bin_mask()
    np.testing.assert_allclose(decisions[-1].scores[present], forced[present], atol=1e-4)
    np.testing.assert_allclose(sessions.values(0, ["close"]), forced[0].max(), atol=1e-4)


def test_a_robot_may_write_its_next_frame_over_the_last(policy):
    """A camera's buffer, a state's and an embedding's: the window is of what was seen."""
    frames, kept = frames_of(5, 4), []
    for reuses in (False, True):
        sessions, image = Sessions(policy, None), np.zeros((16, 16, 3), np.uint8)
        state, embedding = np.zeros(4, np.float32), np.zeros(12)
        for (images, joints), sentence in zip(frames, ("open", "open", "close", "close")):
            if not reuses:
                image, state, embedding = image.copy(), state.copy(), embedding.copy()
            image[:], state[:], embedding[:] = images["front"], joints, EMBEDDINGS[sentence]
            (decision,) = sessions.act([Request(0, {"front": image}, state, embedding)])
        kept.append((decision.scores, sessions.values(0, [EMBEDDINGS["push"]])))
    np.testing.assert_array_equal(kept[0][0], kept[1][0])
    np.testing.assert_array_equal(kept[0][1], kept[1][1])


def test_an_encoder_that_fails_leaves_the_sessions_as_they_were(policy):
    sessions, frame = Sessions(policy, EMBEDDINGS.__getitem__), frames_of(1, 1)[0]
    with pytest.raises(KeyError):
        sessions.act([Request(0, *frame, "open"), Request(1, *frame, "unknown")])
    assert not len(sessions)


def test_a_reset_forgets_the_episode(policy):
    first, second = frames_of(6, 4), frames_of(7, 4)
    sessions = Sessions(policy, EMBEDDINGS.get)
    played(sessions, 0, first, ["open"] * 4)
    again = played(sessions, 0, second, ["open"] * 4, reset=True)
    fresh = played(Sessions(policy, EMBEDDINGS.get), 0, second, ["open"] * 4)
    for one, other in zip(again, fresh):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert [decision.step for decision in again] == [0, 1, 2, 3]


FRONT, STATE = np.zeros((16, 16, 3), np.uint8), np.zeros(4, np.float32)
BAD = [
    ("images", {}, r"cameras \[\], the policy expects \['front'\]"),
    ("images", {"front": FRONT, "wrist": FRONT}, r"cameras \['front', 'wrist'\], the policy expects"),
    ("images", FRONT, r"images is uint8\[16, 16, 3\], the policy expects a dict: \['front'\]"),
    ("images", {"front": FRONT[:4]}, r"images\['front'\] is uint8\[4, 16, 3\], .* uint8\[16, 16, 3\]"),
    ("images", {"front": FRONT.astype(np.float32)}, r"images\['front'\] is float32\[16, 16, 3\]"),
    ("images", {"front": FRONT.tobytes()}, r"images\['front'\] is a bytes .* a numpy array, uint8\[16"),
    ("images", {"front": None}, r"images\['front'\] is a NoneType \(None\)"),
    ("state", np.zeros(7, np.float32), r"state is float32\[7\], the policy expects floating\[4\]"),
    ("state", np.asarray([0, np.nan, 0, 0]), "state holds NaN or Inf"),
    ("state", np.asarray([0, 0, -np.inf, 0], np.float32), "state holds NaN or Inf"),
    ("state", np.asarray([0, 0, 0, 1e300]), "state holds NaN or Inf"),  # in float32
    ("state", np.zeros(4, int), r"state is int64\[4\]"),
    ("state", np.asarray(["0"] * 4), r"state is <U1\[4\]"),
    ("state", "0 0 0 0", r"state is a str \('0 0 0 0'\)"),
    ("state", [0.0] * 4, r"state is a list \(\[0.0, 0.0, 0.0, 0.0\]\), the policy expects a numpy array"),
    ("instruction", "", r"instruction is a str \(''\), the policy expects a sentence"),
    ("instruction", " \n", "instruction is a str"),
    ("instruction", b"open", r"instruction is a bytes \(b'open'\), the policy expects a sentence"),
    ("instruction", None, "instruction is a NoneType"),
    ("instruction", np.zeros(5, np.float32), r"instruction is float32\[5\], .* floating\[12\]"),
    ("instruction", np.full(12, np.inf, np.float32), "instruction holds NaN or Inf"),
]


@pytest.mark.parametrize("field, value, message", BAD)
def test_a_bad_observation_is_an_error_that_names_it_and_no_other_robot_s(policy, field, value, message):
    frames = frames_of(8, 3)
    sessions, undisturbed = (
        Sessions(policy, EMBEDDINGS.get),
        played(Sessions(policy, EMBEDDINGS.get), 0, frames, ["open"] * 3),
    )
    played(sessions, 0, frames[:1], ["open"])
    bad = dataclasses.replace(Request(0, *frames[1], "open"), **{field: value})
    other = Request(1, *frames[0], "open")
    with pytest.raises(UserError, match=message):
        sessions.act([other, bad])
    assert len(sessions) == 1  # the other has not begun
    served, refused = sessions.act_each([other, bad])
    assert refused.code == "bad_observation" and re.search(message, str(refused)) and "\n" not in str(refused)
    np.testing.assert_allclose(served.scores, undisturbed[0].scores, atol=1e-5)
    after = played(sessions, 0, frames[1:], ["open"] * 2)
    for one, other in zip(undisturbed[1:], after):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_more_sessions_than_the_policy_has_episodes_are_refused_until_one_closes(policy):
    sessions, frame = Sessions(policy, EMBEDDINGS.get), frames_of(1, 1)[0]
    four = [Request(number, *frame, "open") for number in range(4)]
    with pytest.raises(Refused, match="All 3 sessions are in use"):
        sessions.act(four)
    assert not len(sessions)
    codes = [getattr(result, "code", "") for result in sessions.act_each(four)]
    assert codes == ["", "", "", "sessions_full"]
    sessions.close(1)
    sessions.act(four[3:])


def test_value_of_each_instruction_is_that_of_an_episode_under_it(policy):
    frames, names = frames_of(3, WINDOW + 1), ["open", "close", "push"]
    sessions = Sessions(policy, EMBEDDINGS.get)
    decisions = played(sessions, 0, frames, ["open"] * len(frames))
    values = sessions.values(0, names)
    expected = [
        played(Sessions(policy, EMBEDDINGS.get), 0, frames, [name] * len(frames))[-1].scores[0].max()
        for name in names
    ]
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(values[0], decisions[-1].scores[0].max(), atol=1e-5)
    with pytest.raises(Refused, match="no observation yet"):
        sessions.values(9, names)


@pytest.mark.parametrize(
    "instructions, message",
    [
        ("open", "The instructions are 'open', expected a list"),
        (["open", ""], r"instruction is a str \(''\)"),
        (["open", np.zeros(5, np.float32)], r"instruction is float32\[5\], .* floating\[12\]"),
        (["open", "unknown"], "not among"),
    ],
)
def test_what_is_no_list_of_instructions_has_no_values(policy, instructions, message):
    def embed(sentence):
        if sentence not in EMBEDDINGS:
            raise UserError("not among the exported")
        return EMBEDDINGS[sentence]

    sessions = Sessions(policy, embed)
    played(sessions, 0, frames_of(3, 1), ["open"])
    with pytest.raises(Refused, match=message) as refused:
        sessions.values(0, instructions)
    assert refused.value.code == "bad_observation"
    assert sessions.values(0, []).shape == (0,)


def test_candidates_are_judged_as_in_training_and_the_greedy_action_as_it_decided(network, policy):
    """In a window that fills up; of all three every dim is scored given those before it."""
    segment, frames = make_segment(WINDOW + 1, batch=1, seed=9), frames_of(9, WINDOW + 1)
    sessions, tokens = Sessions(policy, EMBEDDINGS.get), np.int32([[3, 0, 1], [7, 7, 0], [3, 0, 0]])
    (greedy,) = played(Sessions(policy, EMBEDDINGS.get), 0, frames, ["open"] * (WINDOW + 1))[-1:]
    action = policy.spec.interface.action
    given = np.stack([*discretization.detokenize(action, tokens), greedy.actions[0]])[:, None]
    for images, state in frames:
        asked = Request(0, images, state, "open", candidates=given)
        (ranking,) = sessions.act_each([asked])
    assert ranking.step == WINDOW and ranking.q.shape == (4,)

    many = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), segment)
    done = np.array(many.tokens)
    done[:, -1] = tokens
    opened = np.repeat(EMBEDDINGS["open"][None], 3, axis=0)
    forced = jax.jit(network.score)(
        make_params(network), dataclasses.replace(many, tokens=done, instruction=opened)
    )
    forced = np.where(action.bin_mask(), forced[:, -1, :, :, 0], -np.inf)
    taken = np.take_along_axis(forced, tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(ranking.q[:3], taken[:, -1], atol=1e-4)
    np.testing.assert_allclose(ranking.support[:3], (taken - forced.max(-1)).min(-1), atol=1e-4)
    np.testing.assert_allclose(ranking.q[3], greedy.score, atol=1e-5)
    np.testing.assert_allclose(ranking.support[3], 0.0, atol=1e-5)
    assert ranking.order.tolist() == np.argsort(-ranking.q, kind="stable").tolist()


def test_a_request_with_candidates_shares_a_call_with_those_that_act(policy):
    """Each session has its own answer, and a bad candidate leaves its session as it was."""
    frames, good = frames_of(4, 2), np.zeros((2, 1, 3))
    sessions = Sessions(policy, EMBEDDINGS.get)
    alone = played(Sessions(policy, EMBEDDINGS.get), 0, frames, ["open"] * 2)
    for number, frame in enumerate(frames):
        acted, ranked, refused = sessions.act_each(
            [
                Request(0, *frame, "open"),
                Request(1, *frame, "open", candidates=good),
                Request(2, *frame, "open", candidates=good + 2.0),
            ]
        )
        assert (acted.step, ranked.step) == (number, number) and 2 not in sessions
        np.testing.assert_allclose(acted.scores, alone[number].scores, atol=1e-5)
        assert ranked.q[0] == ranked.q[1] and ranked.order.tolist() == [0, 1]
        assert refused.code == "bad_observation" and "Candidate 0 has x = 2; give a number in" in str(refused)


@pytest.mark.parametrize("score_name, of_whole", [("Q", 0.875), ("log-probability", 0.75 + 0.5 + 0.875)])
@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_robots_own_order_of_dims_changes_neither_values_nor_scores(dims, score_name, of_whole):
    """A value is read where the network begins, the score of the whole action where it ends."""
    sessions = Sessions(TablePolicy(dims, score_name), EMBEDDINGS.get)
    (decision,) = played(sessions, 0, frames_of(0, 1), ["open"])
    assert decision.score == of_whole
    if score_name == "Q":
        np.testing.assert_array_equal(sessions.values(0, ["open"]), [0.75])


@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 0)])
def test_a_decision_has_the_actions_to_execute_in_the_robot_s_own_order_of_dims(dims):
    """The best of two bins over [-1, 1] are 1, 0, 1 in x, y, g. The last action's g is decided last."""
    sessions = Sessions(TablePolicy(dims, chunk=3, execute=2), EMBEDDINGS.get)
    (decision,) = played(sessions, 0, frames_of(0, 1), ["open"])
    best = np.float32([0.5, -0.5, 0.5])[list(dims)]
    np.testing.assert_array_equal(decision.actions, [best, best])
    assert len(decision.tokens) == 3 * len(dims) and decision.score == 0.875
    np.testing.assert_array_equal(sessions.values(0, ["open"]), [0.75])


def test_nothing_is_compiled_after_the_warm_up(policy):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    sessions, frames = Sessions(policy, EMBEDDINGS.get), frames_of(4, 5)
    played(sessions, 0, frames, ["open", "open", "close", "close", "open"])
    sessions.act([Request(number, *frames[0], "push", reset=True) for number in range(3)])
    for count in (1, 4, 5):
        sessions.act_each([Request(0, *frames[1], "open", candidates=np.zeros((count, 1, 3)))])
    sessions.close(2)
    sessions.values(0, ["open", "close"])
    jax.monitoring.clear_event_listeners()
    assert compiled == []


@pytest.mark.parametrize("additive", [False, True])
def test_beam_search_finds_what_trying_everything_finds(network, additive):
    """A beam as wide as there are prefixes is exhaustive; one of width 1 is greedy."""
    params, segment = make_params(network), make_segment(WINDOW, batch=1, seed=4)
    encode = jax.jit(network.encode_frame)

    def frame(t):
        return encode(params, {"front": segment.images["front"][:, t]}, {"front": np.ones(1, bool)},
                                               segment.state[:, t], segment.instruction)  # fmt: skip

    cache = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *[frame(t) for t in range(WINDOW)])
    mask, present = np.ones((1, WINDOW), bool), np.ones(network.interface.action.dims, bool)
    score = (lambda logits, dim: jax.nn.log_softmax(scores(logits, dim))) if additive else scores
    done = np.array(segment.tokens)

    def twice(logits, dim):
        return score(logits, dim), 2 * score(logits, dim)

    beam = jax.jit(
        lambda width: network.beam(params, cache, mask, done, twice, width, additive, present),
        static_argnums=0,
    )
    greedy = jax.jit(network.greedy, static_argnums=4)(params, cache, mask, done, score)
    tokens, (values, beside) = beam(1)
    np.testing.assert_array_equal(greedy[0], tokens)
    np.testing.assert_allclose(greedy[1], values, atol=1e-5)
    np.testing.assert_array_equal(beside, 2 * values)

    every = np.stack(np.meshgrid(*map(np.arange, network.interface.action.bins), indexing="ij"), -1).reshape(
        -1, network.interface.action.dims
    )
    many = jax.tree.map(lambda x: np.repeat(x, len(every), axis=0), segment)
    tokens = np.array(many.tokens)
    tokens[:, -1] = every
    logits = jax.jit(network.score)(params, dataclasses.replace(many, tokens=tokens))[:, -1]
    forced = np.stack([score(logits[:, dim], dim) for dim in range(network.interface.action.dims)], axis=1)
    chosen = np.take_along_axis(forced, every[..., None], axis=-1)[..., 0]
    best = every[np.argmax(chosen.sum(-1) if additive else chosen[:, -1])]
    tokens, (values, beside) = beam(64)
    np.testing.assert_array_equal(tokens[0], best)
    np.testing.assert_allclose(values[0], forced[np.flatnonzero((every == best).all(-1))[0]], atol=1e-4)
    np.testing.assert_array_equal(beside, 2 * values)
