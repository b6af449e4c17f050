"""Several policies of one server: a newer one that takes over, and two that share the episodes."""

import dataclasses
import gc
import json
import os
import shutil
import time
import urllib.request
import weakref

import jax
import numpy as np
import pytest

from qt_jax.data import records
from qt_jax.errors import UserError
from qt_jax.policy import folder
from qt_jax.policy.requests import Refused, Request
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.client import Client
from qt_jax.serving.policies import Policies, Served
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from tests.serving import fake
from tests.serving.chromium import EXECUTABLE, Chromium
from tests.serving.conftest import observations, serve


def served(name: str, first: int = 0, capacity: int = 4, spec=fake.SPEC) -> Served:
    """A policy that decides the bin `first`."""
    sessions = Sessions(fake.Policy(capacity, spec, first), lambda sentence: np.ones(4, np.float32), 1, name)
    return Served(sessions, {"artefact": f"policy {name}", "training": {"step": 10 + first}})


def request(session: str, **more) -> Request:
    images = {"front": np.zeros((64, 64, 3), np.uint8)}
    return Request(session, images, np.zeros(3, np.float32), "open", **more)


def ask(policies: Policies, *sessions: str, **more) -> list:
    return [(one.policy, one.step) for one in policies.act_each([request(name, **more) for name in sessions])]


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
        return reply.read()


def test_episodes_under_way_end_on_the_old_policy_which_is_let_go_then():
    old, new = served("old"), served("new", first=2)
    policies, gone = Policies([old]), weakref.ref(old.sessions.policy)
    assert ask(policies, "a", "b") == [("old", 0), ("old", 0)]
    policies.replace(0, new)
    del old
    assert ask(policies, "a", "b", "c") == [("old", 1), ("old", 1), ("new", 0)] and len(policies) == 3
    assert ask(policies, "a", reset=True) == [("new", 0)] and ask(policies, "a", "b") == [
        ("new", 1),
        ("old", 2),
    ]
    assert gone() is not None
    policies.close("b")
    gc.collect()
    assert gone() is None and "b" not in policies
    assert ask(policies, "b") == [("new", 0)] and len(policies) == 3
    counts = ("fingerprint", "share", "under_way", "episodes")
    assert [[one[name] for name in counts] for one in policies.report()] == [
        ["old", 0.0, 0, 2],
        ["new", 1.0, 3, 3],
    ]
    assert (
        policies.describe("old")["training"] == {"step": 10}
        and policies.describe()["artefact"] == "policy new"
    )


def test_a_reset_that_is_refused_leaves_the_episode_with_its_policy():
    policies = Policies([served("old")])
    ask(policies, "a")
    policies.replace(0, served("new"))
    bad = dataclasses.replace(request("a", reset=True), state=np.zeros(9, np.float32))
    (refused,) = policies.act_each([bad])
    assert refused.code == "bad_observation" and ask(policies, "a") == [("old", 1)]


def test_what_the_server_lost_begins_anew_with_the_newer_policy():
    policies = Policies([served("old")])
    ask(policies, "a")
    policies.replace(0, served("new"))
    policies.lose_all()
    (refused,) = policies.act_each([request("a")])
    assert refused.code == "episode_lost" and ask(policies, "a", reset=True) == [("new", 0)]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dt": 0.2}, r"policy new has control period 0.2, the policy that is served 0.1; robots rely on it"),
        ({"window": 1}, "has window of one frame True, the policy that is served False"),
        ({"candidates": 3}, "has candidates 3, the policy that is served 0"),
    ],
)
def test_what_robots_could_not_take_for_the_other_is_refused_and_the_old_one_stays(change, words):
    policies, new = Policies([served("old")]), served("new", spec=dataclasses.replace(fake.SPEC, **change))
    with pytest.raises(UserError, match=words):
        policies.replace(0, new)
    with pytest.raises(UserError, match=words):
        Policies([served("old"), new])
    assert ask(policies, "a") == [("old", 0)] and len(policies.report()) == 1


def test_other_actions_cameras_and_sizes_are_refused_by_name():
    own, policies = fake.SPEC.interface, Policies([served("old")])
    changes = {
        r"action dims \['x', 'z'\]": {"action": dataclasses.replace(own.action, names=("x", "z"))},
        r"least actions \[-1.0, -2.0\]": {"action": dataclasses.replace(own.action, low=(-1.0, -2.0))},
        "state dims 4": {"observation": dataclasses.replace(own.observation, state_dim=4)},
        r"image size \[64, 96\]": {"observation": dataclasses.replace(own.observation, image_size=(64, 96))},
    }
    for words, change in changes.items():
        spec = dataclasses.replace(fake.SPEC, interface=dataclasses.replace(own, **change))
        with pytest.raises(UserError, match=words):
            policies.replace(0, served("new", spec=spec))
    finer = dataclasses.replace(own.action, bins=(8, 8))  # which no robot needs to know
    policies.replace(
        0,
        served("new", spec=dataclasses.replace(fake.SPEC, interface=dataclasses.replace(own, action=finer))),
    )
    assert ask(policies, "a") == [("new", 0)]


def test_two_policies_share_episodes_by_seed_or_number_and_so_again_on_another_server():
    def who(**more) -> list[str]:
        policies = Policies([served("a"), served("b")], share=0.25)
        return [
            policies.act_each([request("robot", reset=True, **(more and {"seed": n}))])[0].policy
            for n in range(200)
        ]

    for given in ({}, {"seed": True}):
        found = who(**given)
        assert found == who(**given) and 35 <= found.count("b") <= 65
    assert who() != who(seed=True)
    policies = Policies([served("a"), served("b")], share=0.25)
    assert {policies.act_each([request("robot", reset=True, seed=3)])[0].policy for _ in range(20)} == {
        found[3]
    }
    same = served("a")
    with pytest.raises(UserError, match="policy a is the policy a a second time, expected another one"):
        Policies([served("a"), same])
    with pytest.raises(UserError, match="second time"):
        policies.replace(1, same)
    policies.replace(0, same)  # the same folder again


def test_an_episode_stays_with_its_policy_and_both_have_one_limit_of_sessions():
    policies = Policies([served("a"), served("b")], share=0.5)
    names = [f"robot {number}" for number in range(4)]
    first = policies.act_each([request(name) for name in names])
    assert [isinstance(one, Refused) for one in first] == [False, False, False, True]
    assert first[3].code == "sessions_full" and policies.limit == 3 == len(policies)
    for step in (1, 2):
        again = policies.act_each([request(name) for name in names[:3]])
        assert [(one.policy, one.step) for one in again] == [(one.policy, step) for one in first[:3]]
    assert isinstance(policies.act_each([request(names[3])])[0], Refused)
    policies.close(names[0])
    both = policies.act_each([request(names[1]), request(names[2]), request(names[3])])
    assert [one.step for one in both] == [3, 3, 0]


def test_reply_page_metrics_and_recording_say_who_decided_and_how_it_went(tmp_path):
    policies = Policies([served("a", first=0), served("b", first=2)], share=0.5)
    with Spool(tmp_path / "served.episodes") as spool:
        with (
            fake.served(policies=policies, recorder=Recorder(spool)) as port,
            Client(f"ws://127.0.0.1:{port}") as robot,
        ):
            assert robot.metadata["fingerprint"] == "a" and robot.metadata["artefact"] == "policy a"
            assert get(port, "/healthz") == b"OK\na policy a 0.5\nb policy b 0.5\n"
            decided = []
            for number in range(6):
                replies = [robot.infer(fake.observation(0, "open", reset=True, seed=number))]
                replies += [robot.infer(fake.observation(1, "open"))]
                assert len({reply["policy"] for reply in replies}) == 1
                assert replies[0]["actions"][0, 0] == {"a": -0.75, "b": 0.25}[replies[0]["policy"]]
                decided.append(replies[0]["policy"])
                state = json.loads(get(port, "/state"))
                assert state["shown"]["policy"] == state["metadata"]["fingerprint"] == decided[-1]
                robot.infer(fake.observation(9, "open", label={"success": number % 2 == 0}))
            assert {*decided} == {"a", "b"}
            for one in json.loads(get(port, "/state"))["policies"]:
                mine = [number for number, name in enumerate(decided) if name == one["fingerprint"]]
                good = [number for number in mine if number % 2 == 0]
                counted = [one[name] for name in ("episodes", "labelled", "successes", "under_way")]
                assert counted == [len(mine), len(mine), len(good), 0]
                time.sleep(0.05)  # a reply is noted after it was sent
                lines = get(port, "/metrics").decode().splitlines()
                name = one["fingerprint"]
                assert f'qt_decisions_total{{policy="{name}"}} {2 * len(mine)}.0' in lines
                if good:
                    assert f'qt_labels_total{{policy="{name}",success="true"}} {len(good)}.0' in lines
        assert [episode.policy for episode in spool.read()] == decided


def newer(artefact, place) -> str:
    """Writes the artefact to a folder as one of a later step; returns its fingerprint."""
    shutil.copytree(artefact.path, place)
    about = json.loads((place / folder.POLICY).read_text())
    about["provenance"]["step"] += 1
    folder.seal(place, about)
    return folder.checksums.fingerprint(place)


def test_a_newer_artefact_is_loaded_while_a_real_server_serves(artefact, tmp_path):
    first, link = folder.checksums.fingerprint(artefact.path), tmp_path / "current"
    link.symlink_to(artefact.path)
    second = newer(artefact, tmp_path / "newer")
    serving = serve(link, tmp_path / "log", "--max_sessions=2", "--reload")

    def point(name: str) -> None:
        (tmp_path / "next").symlink_to(tmp_path / name)
        os.replace(tmp_path / "next", link)

    def wait(event: str, count: int) -> None:
        deadline = time.monotonic() + 60
        while serving.log.read_text().count(f'"event": "{event}"') < count:
            assert time.monotonic() < deadline, serving.log.read_text()
            time.sleep(0.05)

    try:
        sent = observations(artefact.spec, 1, 3)
        with Client(serving.url) as robot, Client(serving.url) as other:
            assert robot.infer(sent[0])["policy"] == first
            (tmp_path / "damaged").mkdir()
            (tmp_path / "damaged" / folder.POLICY).write_text("{}")
            point("damaged")
            wait("not reloaded", 1)
            assert "is a policy of another version" in serving.log.read_text()
            point("newer")
            wait("reloaded", 1)
            assert other.infer(sent[0])["policy"] == second
            assert robot.infer(sent[1])["policy"] == first
            assert robot.infer(sent[2] | {"reset": True})["policy"] == second
            assert get(serving.port, "/healthz").decode() == f"OK\n{second} newer 1\n"
            step = json.loads(get(serving.port, "/state"))["metadata"]["training"]["step"]
            assert step == artefact.training()["step"] + 1
        assert serving.end() == 0
    finally:
        serving.process.kill()


@pytest.mark.slow
def test_a_real_server_of_two_policies_and_a_shadow_records_each_episode(artefact, tmp_path):
    names, recorded = {folder.checksums.fingerprint(artefact.path)}, tmp_path / "recorded"
    names.add(newer(artefact, tmp_path / "b"))
    flags = [
        f"--artefact={tmp_path / 'b'}",
        "--share=0.5",
        f"--shadow={artefact.path}",
        f"--record={recorded}",
    ]
    serving, count = serve(artefact.path, tmp_path / "log", *flags, "--max_sessions=2"), 8
    first, *others = observations(artefact.spec, 1, 3)
    try:
        with Client(serving.url) as robot:
            decided = []
            for seed in range(count):
                decided.append(robot.infer(first | {"reset": True, "seed": seed})["policy"])
                for seen in others:
                    robot.infer(seen)
                robot.infer(first | {"label": {"success": True}})
            state = json.loads(get(serving.port, "/state"))
        assert {*decided} == names and {one["successes"] for one in state["policies"]} <= {*range(1, count)}
        assert state["shadow"]["compared"] > 0
        assert serving.end() == 0
    finally:
        serving.process.kill()
    shards = records.open_directory(str(recorded)).shards
    assert sum(shard.examples for shard in shards) == count


def test_a_real_policy_that_is_replaced_leaves_the_memory(artefact):
    def real(name: str) -> Served:
        policy = artefact.policy(2, (1,))
        return Served(Sessions(policy, artefact.embeddings().get, name=name), {"artefact": name})

    policies = Policies([real("old")])
    sent = observations(artefact.spec, 1, 1)[0]
    asked = policies.keys.request(dict(sent), "robot")
    policies.act_each([asked])
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    policies.replace(0, real("new"))
    policies.act_each([asked])
    assert sum(array.nbytes for array in jax.live_arrays()) > 1.5 * before
    policies.close("robot")
    policies.act_each([asked])
    gc.collect()
    assert sum(array.nbytes for array in jax.live_arrays()) <= before


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed (apt-get install chromium)")
def test_the_page_has_a_row_for_each_policy_and_a_line_for_the_shadow(tmp_path):
    spec = dataclasses.replace(fake.SPEC, dt=30.0)  # so that the shadow is never late
    policies = Policies([served("a", spec=spec), served("b", 2, spec=spec)], share=0.3)
    with Spool(tmp_path / "served.episodes") as spool:
        recorder, shadow = Recorder(spool), served("c", 1, spec=spec)
        with (
            fake.served(policies=policies, shadow=shadow, recorder=recorder) as port,
            Client(f"ws://127.0.0.1:{port}") as robot,
        ):
            who = robot.infer(fake.observation(0, "open"))["policy"]
            browser = Chromium(tmp_path)
            try:
                browser.open(f"http://127.0.0.1:{port}/")
                line = "document.querySelector('#shadow:not([hidden])')?.textContent"
                browser.until(f"{line}?.includes('1 decisions compared')")  # or the next would supersede it
                fake.label(robot)
                robot.infer(fake.observation(0, "open", seed=0))
                browser.until(f"{line}?.includes('2 decisions compared')")
                cells = "[...x.children].map(cell => cell.textContent)"
                rows = browser.evaluate(f"[...document.querySelectorAll('#serving tr')].map(x => {cells})")
                assert browser.errors == []
                said = browser.evaluate(line)
            finally:
                browser.close()
    assert [row[:4] for row in rows] == [
        ["policy a", "a", "10 steps", "70%"],
        ["policy b", "b", "12 steps", "30%"],
    ]
    assert sum(int(row[4]) for row in rows) == 2 and sum(int(row[5]) for row in rows) == 1
    assert [row[6] for row in rows] == ["1 of 1 (100%)" if row[1] == who else "" for row in rows]
    assert said.startswith(
        "Shadow policy c (c), which is never sent: 2 decisions compared, mean |difference| x"
    )
