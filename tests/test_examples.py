"""Each file of examples/ as its docstring says, at toy size."""

import dataclasses
import importlib
import os
import re
import runpy
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

import qt_jax
from qt_jax import plugins
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.errors import UserError
from qt_jax.safety import SafetyLimits
from qt_jax.serving.client import Client
from qt_jax.serving.control import ControlLoop
from qt_jax.specs import ObservationSpec
from tests.conftest import ROOT, run_command
from tests.serving import fake

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
SMALL = {
    "data.batch_size": 8,
    "model.layers": 1,
    "model.width": 32,
    "model.image_tokens": 1,
    "model.patch_stages": ((8, 16, 0),),
    "optimizer.warmup_steps": 1,
    "train.steps": 2,
}
FLAGS = [f"--config.{key}={value}" for key, value in SMALL.items()]


def main(name: str):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


def test_each_is_linked_from_a_page():
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert not [name for name in EXAMPLES if f"examples/{name}.py)" not in pages]


def test_train_on_my_recordings(dataset_path, tmp_path, capsys):
    main("train_on_my_recordings")(dataset_path, str(tmp_path / "run"), **SMALL)
    said = capsys.readouterr().out
    assert re.search(r"^\d+ episodes; the first: '.+', \d+ steps$", said, re.M) and "action: [" in said


def test_act(trained, monkeypatch, capsys):
    monkeypatch.setattr("time.sleep", lambda _: None)
    main("act")(trained.workdir, "open the faucet", steps=2)
    actions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(actions) == 2 and len(np.fromstring(actions[0].strip("[]"), sep=" ")) == 4


def test_act_over_the_socket(capsys):
    with fake.served() as port:
        main("act_over_the_socket")(f"ws://127.0.0.1:{port}", "open the faucet", steps=2)
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]) == 2


def test_rank_proposals(capsys, tmp_path):
    judging = dataclasses.replace(fake.SPEC, candidates=2)
    with fake.served() as proposer, fake.served(spec=judging) as ranker:
        urls = f"ws://127.0.0.1:{proposer}", f"ws://127.0.0.1:{ranker}"
        main("rank_proposals")(*urls, "open the faucet", str(tmp_path / "shadow.jsonl"), steps=2)
    *actions, counts = capsys.readouterr().out.splitlines()
    assert len(actions) == 2 and "'ranked': 2, 'changed': 0" in counts
    assert len((tmp_path / "shadow.jsonl").read_text().splitlines()) == 2


JOINTS = {"x": {"kind": "absolute", "entry": 0, "change": 0.25, "stop": "last"}, "y": {"stop": 0}}
ARM = dataclasses.replace(
    fake.SPEC,
    interface=dataclasses.replace(
        fake.SPEC.interface, observation=ObservationSpec(("front",), (64, 64), 2, "x, y")
    ),
    limits=SafetyLimits.from_json(
        {"dims": JOINTS, "on_late": "stop", "late_ms": 500, "on_stale": "stop", "stale_ms": 10_000}
    ),
)
"""Of a robot whose joints are its action's; the policy decides -0.75 for both."""


def test_a_robot_of_lerobot(capsys):
    class Arm:
        def __init__(self):
            self.sent = []

        def get_observation(self):
            return {"x": 0.5, "y": 0.0, "front": np.zeros((64, 64, 3), np.uint8)}

        def send_action(self, action):
            self.sent.append(action)

    arm = Arm()
    example = runpy.run_path(str(ROOT / "examples" / "lerobot_robot.py"))
    with fake.served(spec=ARM) as port:
        example["run"](f"ws://127.0.0.1:{port}", "open the faucet", arm, steps=3)
    assert arm.sent[0] == {"x": 0.25, "y": -0.75} and arm.sent[-1]["y"] == 0
    assert "'change': " in capsys.readouterr().out


LEROBOT = ROOT / ".lerobot/bin/python"
SO101 = """
import runpy, sys
import numpy as np
from lerobot.robots.so_follower import SO101Follower

sent = []
SO101Follower.connect = lambda self: None
SO101Follower.disconnect = lambda self: print("disconnected after", *sent[0].values())
SO101Follower.get_observation = lambda self: {"x": 0.5, "y": 0.0, "front": np.zeros((480, 640, 3), np.uint8)}

def send(self, action):
    sent.append(action)
    if len(sent) == 3:
        raise KeyboardInterrupt

SO101Follower.send_action = send
runpy.run_path("examples/lerobot_robot.py")["main"](sys.argv[1], "open the faucet", "/dev/null")
"""


@pytest.mark.slow
def test_lerobot_s_own_arm_without_its_motors():
    assert LEROBOT.exists(), "run `make .lerobot/.installed` first, as `make test-slow` does"
    with fake.served(spec=ARM) as port:
        command = [LEROBOT, "-c", SO101, f"ws://127.0.0.1:{port}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "stopped" and "disconnected after 0.25 -0.75" in done.stdout


def stamped(ms: int, **fields) -> types.SimpleNamespace:
    """A ROS message, taken at 5 s and so many milliseconds."""
    header = types.SimpleNamespace(stamp=types.SimpleNamespace(sec=5, nanosec=ms * 10**6))
    return types.SimpleNamespace(header=header, **fields)


class Ros:
    """What the ROS 2 node uses of rclpy: a node whose third command is followed by SIGTERM."""

    def __init__(self):
        self.published, self.said, self._callbacks = [], [], []

    def create_publisher(self, kind, topic, depth):
        return self

    def create_subscription(self, kind, topic, callback, qos):
        self._callbacks.append((kind, callback))

    def publish(self, message):
        self.published.append(message)
        if len(self.published) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def spin(self, node):
        front = bytes(64 * 64 * 3)
        image = stamped(100, encoding="rgb8", height=64, width=64, step=192, data=front)
        joints = stamped(200, name=["x", "y"], position=[0.5, 0.0])
        for kind, callback in self._callbacks:
            callback(image if kind == "Image" else joints)

    def get_logger(self):
        return types.SimpleNamespace(info=self.said.append)

    def get_clock(self):
        return types.SimpleNamespace(now=lambda: types.SimpleNamespace(nanoseconds=5_250_000_000))

    def modules(self) -> dict[str, types.SimpleNamespace]:
        options = types.SimpleNamespace(NO=0)
        rclpy = types.SimpleNamespace(init=lambda **_: None, create_node=lambda name: self, spin=self.spin)
        return {
            "rclpy": rclpy,
            "rclpy.qos": types.SimpleNamespace(qos_profile_sensor_data=None),
            "rclpy.signals": types.SimpleNamespace(SignalHandlerOptions=options),
            "sensor_msgs.msg": types.SimpleNamespace(Image="Image", JointState="JointState"),
            "std_msgs.msg": types.SimpleNamespace(Float64MultiArray=lambda data: data),
        }


def test_a_ros_2_node_stops_at_a_signal_and_says_what_happened(monkeypatch):
    """Its main, with stand-ins for ROS's modules, which PyPI does not have."""
    ros, before = Ros(), signal.getsignal(signal.SIGTERM)
    for name, module in ros.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    try:
        with fake.served(spec=ARM) as port:
            main("ros2_node")(f"ws://127.0.0.1:{port}", "open the faucet")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ros.published[0] == [0.25, -0.75] and ros.published[-1][1] == 0
    assert ros.said[-2] == "stopped" and "'replies': " in ros.said[-1]


def test_a_ros_2_node_without_ros():
    """Its adapter, between messages as ROS has them and the loop."""
    example = runpy.run_path(str(ROOT / "examples" / "ros2_node.py"))

    bgr = np.zeros((64, 70, 3), np.uint8)  # 64 pixels a row, and some bytes that are none
    bgr[:, :64, 0] = 200
    image = stamped(100, encoding="bgr8", height=64, width=64, step=210, data=bgr.tobytes())
    published = []
    topics = example["Topics"](["x", "y"], ["front"], published.append, lambda: 5_250_000_000)
    topics.receive("front", image)
    assert not topics.ready()
    topics.receive("joints", stamped(200, name=["y", "other", "x"], position=[0.0, 9.0, 0.5]))
    assert topics.ready()
    seen = topics.observe()
    assert seen["age_ms"] == 150 and seen["observation/state"].tolist() == [0.5, 0]
    assert seen["observation/front"].shape == (64, 64, 3) and seen["observation/front"][0, 0].tolist() == [
        0,
        0,
        200,
    ]
    with fake.served(spec=ARM) as port, Client(f"ws://127.0.0.1:{port}") as policy:
        ControlLoop(policy, topics).run("open the faucet", steps=3)
    assert published[0] == [0.25, -0.75]
    image.encoding = "mono8"
    with pytest.raises(ValueError, match="The image is 'mono8', expected rgb8 or bgr8"):
        topics.observe()


@pytest.mark.parametrize("name", ["my_agent", "my_encoder"])
def test_an_agent_and_an_encoder_of_ones_own(name, config, dataset_path):
    mine = importlib.import_module(f"examples.{name}").get_config()
    mine.workdir, mine.env = config.workdir, config.env
    mine.update_from_flattened_dict(SMALL | {"data.path": dataset_path, "data.cache": config.data.cache})
    qt_jax.train(mine)
    policy = qt_jax.load_policy(mine.workdir)
    seen = {
        key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of
    }
    assert policy.infer(seen | {"prompt": "open the faucet"})["actions"].shape == (1, 4)


def test_a_suite_of_ones_own(tmp_path):
    """Collects, trains and evaluates in the simulator of the example."""
    run, data = f"--config.workdir={tmp_path / 'run'}", f"--config.data.path={tmp_path / 'data'}"
    few = ["--config.collect.demonstrations=2", "--config.collect.autonomous=2", "--config.collect.workers=1"]
    run_command("collect", data, *few, config="examples/my_suite.py")
    run_command("train", data, run, *FLAGS, config="examples/my_suite.py")
    two = [
        "--config.evaluate.episodes=1",
        "--config.evaluate.num_envs=2",
        "--config.evaluate.max_decisions=3",
    ]
    said = run_command("evaluate", data, run, *two, *FLAGS, config="examples/my_suite.py").stdout
    assert "go to the right corner" in said and (tmp_path / "run" / "report.html").exists()


def test_a_success_classifier_of_ones_own():
    mine = importlib.import_module("examples.my_success_classifier").get_config()
    label = plugins.find("config.collect.label", mine.collect.label, {})
    left = dict(task="left", collector="noise", index=0, instruction="", images={}, success=False, dt=0.1)
    left |= {"actions": np.zeros((1, 2)), "rewards": np.zeros(1)}
    ends = {
        name: np.float32([[0, 0], end]) for name, end in {"there": (-0.7, 0.7), "off": (0.8, 0.8)}.items()
    }
    assert label(RecordedEpisode(state=ends["there"], **left)) is True
    assert label(RecordedEpisode(state=ends["off"], **left)) is False  # the corner of the other task


def test_a_table_of_ones_own():
    table = runpy.run_path(str(ROOT / "examples" / "my_dataset_table.py"))
    steps = {
        "language_instruction": np.array([b"open the oven"] * 2),
        "observation": {"image": [b"", b""], "state": np.zeros((2, 7), np.float32)},
        "action": np.zeros((2, 4), np.float32),
        "reward": np.float32([0, 1]),
        "is_first": np.array([True, False]),
        "is_last": np.array([False, True]),
    }
    episode = table["SPECS"]["kitchen"].standardise({"steps": steps})
    assert episode.instruction == "open the oven" and episode.success
    assert set(table["MIXTURES"]["kitchen_and_rt1"]) == {"kitchen", "fractal_arm"}


def test_names_that_nobody_has(config):
    from qt_jax import agents
    from qt_jax.models import images

    with pytest.raises(
        UserError,
        match="config.agent.name is 'dqn'; expected one of q_transformer, .*there is no file dqn.py",
    ):
        agents.get("dqn")
    with pytest.raises(UserError, match="my_encoder.py has no 'Encodr'"):
        images.encoder("examples.my_encoder:Encodr")
    with pytest.raises(UserError, match="'json' lacks ADDITIVE, .*scores"):
        agents.get("json")


def test_importing_costs_nothing():
    """A robot's start: no jax, no numpy."""
    code = "import sys, qt_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    with pytest.raises(AttributeError, match="has no attribute 'load'; it has evaluate, load_policy"):
        qt_jax.load  # noqa: B018


@pytest.mark.slow
def test_tour(tmp_path):
    """Two steps of everything, in an empty folder; what it leaves is there."""
    small = {
        **{
            "collect.demonstrations": 2,
            "collect.autonomous": 2,
            "train.steps": 2,
            "train.checkpoint_every": 2,
        },
        **{
            "train.validate_every": 2,
            "evaluate.episodes": 1,
            "evaluate.max_decisions": 3,
            "improve.rounds": 1,
        },
        **{"improve.episodes": 1, "improve.steps": 2, "data.validation_fraction": 0.0},
    }
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    command = [sys.executable, ROOT / "examples/tour.py", ROOT / "experiments/tour.py", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\npython -m qt_jax ") == 8 and "ms an action" in done.stdout
    assert (tmp_path / "runs/tour/q_transformer/improve/improve.html").exists()
