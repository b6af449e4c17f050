"""The decoding "rank" from a checkpoint to what acts: drawn by chance, repeatable, the same everywhere.

And the ranking of actions that somebody else proposes, which judges by the same Q.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qt_jax
from qt_jax import agents
from qt_jax.agents import awac, bc, cql, decision_transformer, iql, q_transformer
from qt_jax.errors import UserError
from qt_jax.evaluation import rollouts
from qt_jax.evaluation.rollouts import Job
from qt_jax.export import agreement, artefact, checkpoint_policy
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import Network
from qt_jax.models.q_transformer import laptop
from qt_jax.policy import artefact as artefacts
from qt_jax.policy import checksums
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import ActionSpec, Decoding, Interface, ObservationSpec, PolicySpec
from tests import tiny
from tests.agents import by_hand
from tests.data.synthetic import unit_statistics
from tests.export import onnx_robot
from tests.export.test_artefact import describe, untrained
from tests.export.test_onnx import WITHOUT_JAX, run
from tests.policy import table_policy

RANK = Decoding("rank", 3, 0.5)


def drawn_by_hand(decoding, robot, agent=q_transformer, candidates=0, **settings):
    """Makes a policy of a network of x, y and g whose outputs are always the same."""
    config = by_hand.config_of(agent, **settings)
    config.model = laptop()
    config.model.update(layers=1, width=8, heads=1, window=1)
    joint = Interface(ActionSpec(tuple("xyg"), (-1.0,) * 3, (1.0,) * 3, (3, 3, 2)), *SEES)
    ensemble = Ensemble(Network.create(config.model, joint, 2, False))
    params = ensemble.init(jax.random.key(0))
    policy, q = jnp.asarray([[0.2, 0.5, 0.3]] * 2 + [[0.25, 0.75, 9.0]]), jnp.asarray([[0.2, 0.5, 0.1]] * 3)
    bias = jnp.stack([jax.scipy.special.logit(q), jnp.log(policy)], axis=-1)
    params |= {"head": jnp.zeros_like(params["head"]), "head_bias": bias}
    own, dims = Interface(robot, *SEES), robot.dims_in(joint.action)
    spec = PolicySpec(
        own,
        dims,
        window=1,
        text_encoder="test",
        score_name=agent.SCORE_NAME,
        dt=0.1,
        decoding=decoding,
        behaviour=agents.has_behaviour(config),
        candidates=candidates,
    )
    made = checkpoint_policy.of_robot(config, ensemble, spec, unit_statistics(1))
    return made.policy(params, 1)


SEES = ObservationSpec((), (8, 8), 1, ""), 4
ROBOT = ActionSpec(("g", "x"), (-1.0,) * 2, (1.0,) * 2, (2, 3))
"""Its dims in another order than the network's, of which it has not all."""
ONE = {"images": {}, "state": np.zeros((1, 1), np.float32), "instruction": np.zeros((1, 4), np.float32)}


@pytest.mark.parametrize("agent, settings", [(q_transformer, {"behaviour_weight": 1.0}), (awac, {})])
def test_which_action_is_drawn_and_which_acts_by_hand(agent, settings):
    """An x has probabilities (.2, .5, .3), so at temperature 1/2 (.04, .25, .09)/.38: sums of .11, .76 and 1.

    The gripper's (.25, .75) are (.1, .9) there. It is decided last, and its bin 1 has the greater Q.
    """
    policy = drawn_by_hand(RANK, ROBOT, agent, **settings)

    def act(*uniforms):
        found = policy.act(np.zeros(1, int), **ONE, is_first=[True], uniforms=np.float32([uniforms]))
        return found.tokens[0].tolist(), found.chosen[0]

    tokens, chosen = act((0.09, 0.5), (0.11, 0.77), (0.05, 0.0))  # (g, x): of the three the second grips
    assert tokens == [1, 2]
    expected = (0.5, 0.1) if agent is q_transformer else np.log((0.75, 0.3))
    np.testing.assert_allclose(chosen, expected, rtol=1e-5)
    assert act((0.09, 0.1), (0.05, 0.5), (0.05, 0.9))[0] == [0, 0]  # of equals the first
    assert act((0.05, 0.0), (0.99999, 0.75), (0.2, 0.0))[0] == [1, 1]
    warm = dataclasses.replace(RANK, temperature=1.0)
    policy = drawn_by_hand(warm, ROBOT, agent, **settings)
    assert act((0.2, 0.0), (0.26, 0.75), (0.24, 0.0))[0] == [1, 2]


def test_an_imitation_draws_its_action_by_hand():
    """Its odds of x are 1/4, 1 and 1/9, so at temperature 1/2 of .0625, 1 and .0123: sums of .058 and .989.

    The gripper's are 1/4 and 1: .059 and 1.
    """
    policy = drawn_by_hand(Decoding("sample", 1, 0.5), ROBOT, bc)
    for uniforms, tokens in (((0.05, 0.05), [0, 0]), ((0.07, 0.98), [1, 1]), ((0.5, 0.995), [1, 2])):
        given = np.float32([[uniforms]])  # (g, x)
        found = policy.act(np.zeros(1, int), **ONE, is_first=[True], uniforms=given)
        assert found.tokens[0].tolist() == tokens
    with pytest.raises(UserError, match="decode is 'sample', which needs action probabilities; 'q_tran"):
        drawn_by_hand(Decoding("sample"), ROBOT)


def test_what_the_data_does_not_support_is_not_drawn():
    """Of x the bins .2 and .3 have less than .7 of .5: every draw is the middle one."""
    policy = drawn_by_hand(RANK, ROBOT, behaviour_weight=1.0, support=0.7)
    for uniform in (0.0, 0.5, 0.9999):
        uniforms = np.full((1, 3, 2), uniform, np.float32)
        found = policy.act(np.zeros(1, int), **ONE, is_first=[True], uniforms=uniforms)
        assert found.tokens[0].tolist() == [1, 1] and np.isfinite(found.chosen).all()


def test_of_iql_the_lesser_critic_ranks_and_the_policy_draws():
    q = jnp.asarray([[[0.2, 0.5, 0.1], [0.4, 0.3, 0.9]]])
    critics = jax.scipy.special.logit(jnp.stack([q, q[:, ::-1]], axis=-1))
    logits = jnp.concatenate([critics, jnp.log(jnp.asarray([by_hand.PROBABILITIES]))[..., None]], axis=-1)
    logits = jnp.concatenate([logits, jnp.zeros((1, 2, 3, 1))], axis=-1)
    exists = jnp.asarray(by_hand.ACTION.bin_mask())
    log_probabilities, found = iql.candidates(by_hand.config_of(iql))(exists, logits)
    np.testing.assert_allclose(found, [[0.2, 0.3, 0.1], [0.2, 0.3, -np.inf]], rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_probabilities), [[0.2, 0.5, 0.3], [0.25, 0.75, 0.0]], rtol=1e-5)


@pytest.mark.parametrize(
    "agent, settings, q",
    [
        (q_transformer, {"behaviour_weight": 1.0, "support": 0.7}, [-np.inf, -np.inf, 0.5]),
        (awac, {}, [0.2, 0.5, 0.5]),
    ],
)
def test_candidates_by_hand(agent, settings, q):
    """Of (g, x) Q is that of g, which is decided last, and the support is of both.

    With `support` the bins .2 and .3 of x and .25 of g are left out.
    """
    policy = drawn_by_hand(Decoding(), ROBOT, agent, candidates=3, **settings)
    proposed = np.float32([[[-0.5, 0.0]], [[0.5, 0.8]], [[0.5, 0.0]]])
    found, support = policy.rank(np.zeros(1, int), **ONE, is_first=[True], proposed=proposed)
    np.testing.assert_allclose(found, q, rtol=1e-5)
    np.testing.assert_allclose(support, np.log((0.25 * 0.5, 0.75 * 0.3, 0.75 * 0.5)), rtol=1e-5)


def test_without_probabilities_the_support_is_a_share_of_the_best_q_above_the_least():
    """Of x .2, .5 and .1 lie above 0, of the gripper .4 and .3; its third bin does not exist."""
    config, exists = by_hand.config_of(q_transformer), jnp.asarray(by_hand.ACTION.bin_mask())
    logits = by_hand.logits(by_hand.Q)[0]
    support, q = agents.judge(config)(exists, logits)
    np.testing.assert_allclose(q, [[0.2, 0.5, 0.1], [0.4, 0.3, -np.inf]], rtol=1e-5)
    np.testing.assert_allclose(support, [[0.4, 1.0, 0.2], [1.0, 0.75, 0.0]], rtol=1e-5)
    config.value_range = (-1.0, 0.0)
    np.testing.assert_allclose(agents.judge(config)(exists, logits)[0], support, rtol=1e-5)
    nowhere = jnp.full_like(logits, -np.inf)
    np.testing.assert_array_equal(agents.judge(config)(exists, nowhere)[0], np.zeros((2, 3)))


@pytest.mark.parametrize("agent", [bc, decision_transformer])
def test_an_agent_without_q_ranks_no_candidates(agent):
    config = by_hand.config_of(agent)
    with pytest.raises(UserError, match=f"candidates are ranked by Q, and '{config.agent.name}' has no Q"):
        agents.judge(config)


@pytest.mark.parametrize("agent", [q_transformer, cql, bc, decision_transformer])
def test_an_agent_without_probabilities_or_values_is_refused_by_name(agent):
    config = by_hand.config_of(agent)
    with pytest.raises(UserError, match=f"'{config.agent.name}' lacks them.* config.agent.behaviour_weight"):
        agents.candidates(config)


@pytest.fixture(scope="module")
def checkpoint():
    config = tiny.get_config()
    config.agent.update({"behaviour_weight": 1.0, "conservatism": "closed_form", "support_width": 0.1})
    config.model.networks = 2
    return untrained(config)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranking") / "policy")
    return artefact.build(*checkpoint, folder, {"workdir": "", "step": 0}, decoding=RANK, candidates=3)


@pytest.fixture(scope="module")
def policy(checkpoint):
    return checkpoint_policy.build(*checkpoint, capacity=3, decoding=RANK, candidates=3)


def embed(sentence):
    return np.full(512, 0.01 * len(sentence), np.float32)


def requests(spec, session, steps, seed=None, prompt="open"):
    rng, own = np.random.default_rng(len(session)), spec.interface.observation
    return [
        Request(
            session,
            {name: rng.integers(0, 256, (*own.image_size, 3), np.uint8) for name in own.cameras},
            rng.normal(size=own.state_dim).astype(np.float32),
            prompt if t < 3 else "close it",
            reset=t == 0,
            seed=seed if t == 0 else None,
        )
        for t in range(steps)
    ]


def played(policy, asked):
    sessions = Sessions(policy, embed)
    return [sessions.act([request])[0].tokens.tolist() for request in asked]


def test_an_episode_repeats_itself_by_its_seed_however_it_is_batched(policy):
    """Its window is encoded again on the way, under another instruction."""
    episodes = {name: requests(policy.spec, name, 5, seed) for name, seed in (("a", None), ("bb", 7))}
    alone = {name: played(policy, asked) for name, asked in episodes.items()}
    assert played(policy, episodes["a"]) == alone["a"]
    sessions, found = Sessions(policy, embed), {name: [] for name in episodes}
    for turn in range(7):
        rows = [(name, turn - late) for late, name in ((0, "a"), (2, "bb")) if 0 <= turn - late < 5]
        for (name, _), decision in zip(rows, sessions.act([episodes[name][t] for name, t in rows])):
            found[name].append(decision.tokens.tolist())
    assert found == alone

    def seeded(seed):
        return played(policy, requests(policy.spec, "a", 5, seed))

    assert seeded(0) == alone["a"] != seeded(1)
    assert len({*map(tuple, alone["a"])}) > 1


def test_values_of_instructions_are_those_of_greedy_decoding(checkpoint, policy):
    """They are read before the first bin is decided, whatever is drawn."""
    found = []
    for acting in (policy, checkpoint_policy.build(*checkpoint, capacity=3)):
        sessions = Sessions(acting, embed)
        for request in requests(policy.spec, "a", 4):
            sessions.act([request])
        found.append(sessions.values("a", ["open", "close it"]))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_an_evaluation_draws_by_the_number_of_an_episode_whatever_else_runs(policy):
    class Environment:
        def see(self):
            request = requests(policy.spec, self.job.task, 4)[self.step_number]
            return {"images": request.images, "state": request.state}

        def step(self, action):
            self.step_number += 1
            return self.see(), 0.0, False, self.step_number == 3, {}

        def close(self):
            pass

    def begin(env, job):
        env.job, env.step_number = job, 0
        return [env.see()]

    def run(num_envs, *jobs):
        rollouts_of = rollouts.run(
            Sessions(policy, embed), num_envs, list(jobs), lambda task: Environment(), begin
        )
        return {one.job: one.actions.tolist() for one in rollouts_of}

    jobs = [Job(task, index, "open") for task in ("a", "bb") for index in (0, 1)]
    found = run(1, *jobs)
    assert run(3, *jobs[::-1]) == found
    assert found[jobs[0]] != found[jobs[1]]  # of the same observations


def test_the_artefact_draws_what_the_checkpoint_draws(policy, exported):
    about = exported.about["agreement"]
    assert about["max_difference"] <= about["tolerance"] and about["other_bins"] <= about["ties"] < 0.1
    assert artefacts.load(str(exported.path)).spec.decoding == RANK
    asked = requests(policy.spec, "a", 5, seed=3)
    assert played(exported.policy(2), asked) == played(policy, asked)


def test_the_artefact_ranks_as_the_checkpoint_does_and_what_was_drawn_has_the_q_that_it_was_chosen_by(
    policy, exported
):
    sessions, asked = Sessions(policy, embed), requests(policy.spec, "a", 5, seed=3)
    decisions = [sessions.act([request])[0] for request in asked]
    given = np.stack([decisions[-1].actions, *np.float32([np.zeros((1, 4)), np.full((1, 4), 0.9)])])
    rankings = []
    for runtime in (policy, exported.policy(2, (1,))):
        sessions = Sessions(runtime, embed)
        rankings += [sessions.act_each([dataclasses.replace(r, candidates=given)])[0] for r in asked][-1:]
    mine, theirs = rankings
    np.testing.assert_allclose(mine.q, theirs.q, atol=1e-5)
    np.testing.assert_allclose(mine.support, theirs.support, atol=1e-4)
    np.testing.assert_allclose(mine.q[0], decisions[-1].score, atol=1e-5)
    taken = np.take_along_axis(decisions[-1].behaviour, decisions[-1].tokens[:, None], axis=1)
    np.testing.assert_allclose(mine.support[0], np.log(taken).sum(), atol=1e-4)


def test_the_front_door_takes_a_seed(exported):
    policy = qt_jax.load_policy(exported.path)
    seen = {
        key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of
    }
    seen |= {"instruction_embedding": embed("open"), "reset": True}
    tokens = [policy.infer(seen | {"seed": seed})["tokens"].tolist() for seed in (0, 5, 5)]
    assert policy.infer(seen)["tokens"].tolist() == tokens[0] != tokens[1] == tokens[2]
    with pytest.raises(UserError, match="'seed' is -1, expected 0 or more"):
        policy.infer(seen | {"seed": -1})
    with pytest.raises(UserError, match="decode='greedy' is of a run; .* export the run with --decode"):
        qt_jax.load_policy(exported.path, decode="greedy")


def test_numbers_to_draw_by_are_as_many_as_the_policy_takes(policy):
    inputs = agreement.observations(policy.spec, 1, seed=0) | {"is_first": np.ones(1, bool)}
    for uniforms, found in ((None, "None"), (inputs["uniforms"][:, 1:], r"float32\[1, 2, 4\]")):
        with pytest.raises(
            UserError, match=rf"uniforms is {found}, .* rank:3:0.5 expects float32\[1, 3, 4\]"
        ):
            policy.act(np.zeros(1, int), **inputs | {"uniforms": uniforms})
    greedy = table_policy.TablePolicy()
    inputs = agreement.observations(greedy.spec, 1, seed=0) | {"is_first": np.ones(1, bool)}
    with pytest.raises(UserError, match=r"uniforms is float32\[1, 3, 3\], .* greedy expects None"):
        greedy.act(np.zeros(1, int), **inputs, uniforms=np.zeros((1, 3, 3), np.float32))


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("decoding.count", 5, "takes uniforms float32[3, 4], the rest of the policy says uniforms float32[5"),
        ("decoding.kind", "beam", "Decoding: kind is 'beam', count 3, temperature 0.5; give 'greedy'"),
        ("decoding.count", 0, "Decoding: kind is 'rank', count 0"),
        ("behaviour", False, "decode.any.bin gives behaviour float32[4, 16], the rest of the policy says no"),
    ],
)
def test_programs_of_another_decoding_are_refused(exported, tmp_path, key, value, words):
    folder = tmp_path / "policy"
    shutil.copytree(exported.path, folder)
    describe(folder, key, value)
    checksums.write(folder)
    with pytest.raises(UserError) as caught:
        artefacts.load(str(folder))
    assert words in str(caught.value)


def test_an_export_that_draws_or_ranks_otherwise_is_refused(checkpoint, policy):
    """Its scores are the same, since those of the same prefix are compared."""
    other = checkpoint_policy.build(*checkpoint, capacity=3, decoding=RANK, candidates=3)
    draw, judge = other._decide, other._judge
    other._judge = lambda *inputs: judge(*inputs[:-1], inputs[-1][::-1])
    with pytest.raises(UserError, match="rankings differ by up to .* is allowed for float32"):
        agreement.compare(policy, other, "float32")
    other._judge = judge

    def otherwise(*inputs):
        *shared, extra = inputs
        return draw(*shared, {"uniforms": 1 - extra["uniforms"][:, ::-1]})

    other._decide = otherwise
    with pytest.raises(UserError, match="of 36 actions that it draws are others, at most 50% may be"):
        agreement.compare(policy, other, "float32")


@pytest.mark.slow
def test_a_robot_without_jax_draws_what_the_artefact_draws_and_ranks_as_it_does(checkpoint, tmp_path):
    folder = str(tmp_path / "policy")
    artefact.build(*checkpoint, folder, {"workdir": "", "step": 0}, decoding=RANK, candidates=20)
    run("-m", "qt_jax", "onnx", f"--artefact={folder}")
    expected = onnx_robot.rankings(artefacts.load(folder).policy())
    found = json.loads(run("-c", WITHOUT_JAX.replace("main", "rank"), folder))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert json.loads(run("-c", WITHOUT_JAX, folder)) == onnx_robot.episode(artefacts.load(folder).policy())
