"""Candidates over the socket, and `ranked`: another server's proposals, one of which acts."""

import json
import subprocess
import threading

import numpy as np
import pytest

import qt_jax
from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused
from qt_jax.serving import ranked, wire
from qt_jax.serving.client import Client
from tests.conftest import ROOT
from tests.serving import fake
from tests.serving.conftest import observations
from tests.serving.test_circle import OPENPI, Robot

openpi = pytest.mark.skipif(not OPENPI.exists(), reason="needs `make .openpi/.installed`")


@pytest.fixture(scope="module")
def here(artefact):
    """The policy of the server, in this process."""
    return qt_jax.load_policy(artefact.path, robots=2)


@pytest.fixture
def client(served):
    with Client(served.url) as client:
        yield client


def proposal(number: int) -> np.ndarray:
    """What tests/serving/openpi_server.py proposes when it is asked for the n-th time, [6, 4]."""
    return np.random.default_rng(number).uniform(-1, 1, (6, 4))


def test_the_socket_ranks_as_the_policy_does_and_the_greedy_action_is_worth_what_was_reported(
    client, here, artefact
):
    assert client.candidates == client.metadata["candidates"] == here.candidates == 3
    assert client.metadata["support"] == here.spec.support_name == "share of the best Q"
    for step, seen in enumerate(observations(artefact.spec, 1, 4)):
        acted = client.infer(seen | {"session_id": "acts"})
        given = np.stack([np.full((1, 4), 0.9), acted["actions"], np.full((1, 4), -0.9)])
        found = client.rank(seen | {"request_id": 7}, given)
        expected = here.rank(seen, given)
        assert found["step"] == expected["step"] == step and found["request_id"] == 7
        for name in ("q", "order", "support"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        np.testing.assert_allclose(found["q"][1], acted["score"], atol=1e-5)
        np.testing.assert_allclose(found["support"][1], 1.0, atol=1e-4)
        assert found["order"].tolist() == np.argsort(-found["q"], kind="stable").tolist()
        cut = client.rank(seen | {"session_id": "cut"}, np.concatenate([given, 9 * given], axis=1))
        np.testing.assert_allclose(cut["q"], found["q"], atol=1e-5)
    here.reset()


@openpi
def test_openpis_own_client_sends_candidates_too(served, here, artefact):
    (seen,) = observations(artefact.spec, 2, 1)
    given = np.stack([proposal(number)[:1] for number in range(2)])
    robot = Robot(served.url)
    robot.ask(b"")
    found = robot.ask(wire.pack(seen | {"candidates": given}))
    refused = robot.ask(wire.pack(seen | {"candidates": 2 + given}))["refused"]
    robot.end()
    np.testing.assert_allclose(found["q"], here.rank(seen, given)["q"], atol=1e-5)
    here.reset()
    assert '"error": "bad_observation"' in refused and "Candidate 0 has" in refused


def test_what_cannot_be_ranked_is_named_in_process_and_over_the_socket(client, here, artefact):
    (seen,) = observations(artefact.spec, 3, 1)
    good = np.zeros((2, 1, 4))
    cases = [
        (seen, np.zeros((4, 1, 4)), r"shape \[4, 1, 4\]; give \[K, H, 4\], K from 1 to 3"),
        (seen, np.full((1, 1, 4), np.nan), "Candidate 0 has .* = nan; give a number in"),
        (seen, "left", "'candidates' is a str, expected an array"),
        (seen | {"observation/state": np.zeros(3)}, good, "'observation/state'"),
    ]
    for observation, given, message in cases:
        for policy in (client, here):
            with pytest.raises(Refused, match=message) as caught:
                policy.rank(observation, given)
            assert caught.value.code == "bad_observation" and "\n" not in str(caught.value)
    with pytest.raises(Refused, match="'values', 'candidates'. are there at once"):
        client.rank({"values": ["open"]}, good)
    for policy in (client, here):
        assert policy.rank(seen, good.tolist())["step"] == 0
    here.reset()


def test_a_server_that_was_not_asked_to_ranks_none():
    with fake.served() as port, Client(f"ws://127.0.0.1:{port}") as other:
        assert other.candidates == 0
        with pytest.raises(Refused, match="ranks no candidates; export with --candidates=16"):
            other.rank(fake.observation(), np.zeros((1, 1, 2)))
        with pytest.raises(UserError, match="k is 2, the ranker takes 0 candidates at most"):
            ranked(other, other, 2)


@openpi
def test_proposals_of_another_server_are_ranked_and_the_best_acts(served, here, artefact):
    """Two servers as processes of their own, one of openpi's classes."""
    command = [str(OPENPI), "-I", "tests/serving/openpi_server.py", "proposals"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        url = f"ws://127.0.0.1:{process.stdout.readline().strip()}"
        with Client(url) as proposer, Client(served.url) as ranker:
            robot = ranked(proposer, ranker, 3, deadline_ms=30_000)
            changed = 0
            for step, seen in enumerate(observations(artefact.spec, 4, 3)):
                given = np.stack([proposal(3 * step + number) for number in range(3)])
                expected, reply = here.rank(seen, given), robot.infer(seen)
                best = expected["order"][0]
                np.testing.assert_array_equal(reply["actions"], given[best])
                assert reply["ranking"]["acts"] == reply["ranking"]["chosen"] == best
                np.testing.assert_allclose(reply["ranking"]["q"], expected["q"], atol=1e-5)
                changed += int(best > 0)
            about = robot.metadata
            assert about["name"] == "corner" and about["ranked"]["fallbacks"] == {}
            counts = [about["ranked"][name] for name in ("k", "decisions", "ranked", "changed")]
            assert counts == [3, 3, 3, changed]
        process.kill()
    here.reset()


class Proposals:
    """Proposes the action n of two dims when it is asked for the n-th time."""

    def __init__(self):
        self.asked = self.resets = 0

    def infer(self, observation):
        self.asked += 1
        return {"actions": np.full(2, self.asked - 1.0), "name": "p"}

    def reset(self):
        self.resets += 1


class Prefers:
    """Ranks the last candidate first, when `may` is set; else it waits for that."""

    candidates = 4

    def __init__(self):
        self.may, self.seen, self.error = threading.Event(), [], None
        self.may.set()

    def rank(self, observation, candidates):
        self.may.wait(30)
        if self.error is not None:
            raise self.error
        self.seen.append((observation["number"], observation.get("reset", False), candidates.shape))
        q = np.arange(len(candidates), dtype=np.float32)
        q[0] = -np.inf
        return {"q": q, "order": np.argsort(-q), "support": q}


def acted(robot, number):
    reply = robot.infer({"number": number})
    return int(reply["actions"][0]), reply["ranking"]


def test_the_first_acts_where_the_ranker_is_late_or_refuses_and_that_is_counted():
    client, ranker = Proposals(), Prefers()
    robot = ranked(client, ranker, 3, deadline_ms=10_000)
    assert acted(robot, 0)[0] == 2
    robot.reset()
    ranker.error = Refused("sessions_full", "All are in use.")
    action, ranking = acted(robot, 1)
    assert action == 3 and (ranking["fallback"], ranking["why"]) == ("sessions_full", "All are in use.")
    assert ranking["q"] == [] and not isinstance(ranking["rank_ms"], np.ndarray)
    ranker.error = UserError("It is gone.")
    assert acted(robot, 2)[1]["fallback"] == "UserError"

    ranker.error, hasty = None, ranked(client, ranker, 3, deadline_ms=20)
    ranker.may.clear()
    assert [acted(hasty, number)[1]["fallback"] for number in (3, 4)] == ["late", "late"]
    ranker.may.set()
    hasty._asked.result(10)
    assert [acted(robot, 5)[0], acted(hasty, 6)[1]["chosen"]] == [17, 2]
    # The reset is of the first observation that the ranker takes; 4 was not sent while 3 was under way.
    assert [seen[:2] for seen in ranker.seen] == [(0, False), (3, False), (5, True), (6, False)]
    assert ranker.seen[0][2] == (3, 1, 2) and client.resets == 1
    of_robot, of_hasty = robot.metadata["ranked"], hasty.metadata["ranked"]
    assert of_robot["fallbacks"] == {"sessions_full": 1, "UserError": 1} and of_hasty["fallbacks"] == {
        "late": 2
    }
    assert (of_robot["decisions"], of_robot["ranked"], of_robot["changed"]) == (4, 2, 2)


def test_in_shadow_mode_the_first_acts_and_a_file_says_which_would_have(tmp_path):
    ranker, file = Prefers(), tmp_path / "new" / "shadow.jsonl"
    with ranked(Proposals(), ranker, 2, deadline_ms=10_000, shadow=file) as robot:
        first = [acted(robot, number) for number in range(2)]
        ranker.error = Refused("late", "Too late.")
        first.append(acted(robot, 2))
        robot._log.close()
        robot._log = file.open("rb")  # which cannot be written
        acted(robot, 3)
        assert robot.metadata["ranked"]["unwritten"] == 1 and robot.metadata["ranked"]["shadow"]
    assert [action for action, _ in first] == [0, 2, 4]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["decision"], line["chosen"], line["acts"]) for line in lines] == [
        (0, 1, 0),
        (1, 1, 0),
        (2, 0, 0),
    ]
    assert lines[0]["q"] == [None, 1.0] and lines[2]["fallback"] == "late"


def test_what_cannot_be_wrapped_or_proposed_is_one_line(tmp_path):
    ranker = Prefers()
    for k in (0, 5):
        with pytest.raises(UserError, match=f"k is {k}, the ranker takes 4 candidates at most; give another"):
            ranked(Proposals(), ranker, k)
    with pytest.raises(UserError, match="deadline_ms is 0; give milliseconds above 0"):
        ranked(Proposals(), ranker, 2, deadline_ms=0)
    with pytest.raises(UserError, match="shadow=.* cannot be written"):
        ranked(Proposals(), ranker, 2, shadow=tmp_path)
    uneven = Proposals()
    uneven.infer = lambda observation: {"actions": np.zeros((next(sizes), 2))}
    sizes = iter((2, 3))
    with pytest.raises(
        UserError, match=r"'actions' are of float64 and shapes \[\[2, 2\], \[3, 2\]\]; expected"
    ):
        ranked(uneven, ranker, 2).infer({})
    uneven.infer = lambda observation: {"error": 1}
    with pytest.raises(UserError, match="'actions' are of object and shapes"):
        ranked(uneven, ranker, 2).infer({})
