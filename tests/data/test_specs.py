"""The conventions of each dataset, on tiny copies of its public layout, and training on them."""

import math

import numpy as np
import pytest

from qt_jax.data import episodes, records, standardisers, tables
from qt_jax.data.loader import TrainingIterator
from qt_jax.data.mixtures import MIXTURES
from qt_jax.data.specs import SPECS
from qt_jax.discretization import tokenize
from qt_jax.specs import network_action
from qt_jax.training import loop, setup
from qt_jax.training.peers import Peers
from tests import tiny
from tests.data.synthetic import FRACTAL_INSTRUCTIONS


def make_config(root, mixture):
    config = tiny.get_config()
    config.data.root, config.data.mixture, config.data.image_size = root, mixture, 32
    config.data.validation_fraction = 0.2
    config.train.steps = 5
    return config


def read_all(root, name):
    (entry,) = tables.resolve(make_config(root, name).data, {})
    directory = records.open_directory(entry.spec.path)
    found = []
    for shard in directory.shards:
        for _, record in records.scan(shard, ""):
            example = directory.parse(record)
            found.append((example, episodes.read(example, entry.spec, 0.0)))
    return found


def by_hand(commands):
    """The opening after each relative command, 1 open: as a person would follow it."""
    first = next((command for command in commands if abs(command) > 0.1), -1)
    opening, result = (1 if first > 0 else 0), []
    if not any(abs(command) > 0.1 for command in commands):
        opening = 1
    for command in commands:
        opening = {True: 0, False: opening}[command > 0.1]
        opening = {True: 1, False: opening}[command < -0.1]
        result.append(opening)
    return result


@pytest.mark.parametrize("name, dims", [("fractal_arm", 8), ("fractal_arm_base", 11)])
def test_fractal(synthetic_root, name, dims):
    """RT-1's order; terminate one record before the last, which holds the last observation alone."""
    for number, (example, episode) in enumerate(read_all(synthetic_root, name)):
        steps, success = example["steps"], number % 3 != 2
        length = len(steps["is_last"]) - 1
        assert episode.actions.shape == (length, dims) and len(episode.images["front"]) == length + 1
        np.testing.assert_array_equal(episode.actions[:, 0], [0] * (length - 1) + [1])
        np.testing.assert_array_equal(episode.actions[:, 1:4], steps["action"]["world_vector"][:length])
        np.testing.assert_array_equal(episode.actions[:, 4:7], steps["action"]["rotation_delta"][:length])
        opened = by_hand(steps["action"]["gripper_closedness_action"][:length, 0])
        np.testing.assert_array_equal(episode.actions[:, 7], opened)
        if dims == 11:
            names = ("base_displacement_vertical_rotation", "base_displacement_vector")
            base = np.concatenate([steps["action"][name][:length] for name in names], axis=1)
            np.testing.assert_array_equal(episode.actions[:, 8:], base)
        assert (episode.success, episode.terminal) == (success, success)
        np.testing.assert_array_equal(episode.rewards, [0] * (length - 1) + [float(success)])
        assert episode.dt == pytest.approx(1 / 3) and episode.instruction == FRACTAL_INSTRUCTIONS[number % 3]
        assert episode.embedding[0] == number % 3


def test_bridge(synthetic_root):
    found = read_all(synthetic_root, "bridge_v2")
    left_out = [episode is None for _, episode in found]
    assert left_out == [False] * 5 + [True], "an episode without an instruction is left out"
    example, episode = found[0]
    state = example["steps"]["observation"]["state"]
    np.testing.assert_allclose(episode.actions[:, :6], np.diff(state[:, :6], axis=0), atol=1e-6)
    stored = example["steps"]["action"][:-1, 6]
    np.testing.assert_array_equal(episode.actions[1:, 6], stored[1:])
    assert episode.actions[0, 6] == (stored[0] or stored[1]), "an empty first command does not close"
    assert episode.length == 7 and len(episode.state) == 8 and episode.success and episode.terminal
    assert episode.rewards.tolist() == [0.0] * 6 + [1.0] and episode.dt == pytest.approx(0.2)


def test_language_table(synthetic_root):
    example, episode = read_all(synthetic_root, "language_table")[0]
    assert episode.instruction == "push the red star to the blue cube" and episode.dt == pytest.approx(0.1)
    np.testing.assert_array_equal(episode.actions, example["steps"]["action"][:-1])
    target = example["steps"]["observation"]["effector_target_translation"]
    np.testing.assert_array_equal(episode.state[:, 2:], target)
    assert episode.length == 8 and len(episode.state) == 9 and episode.terminal


def shipped(name, gripper, **observation):
    """The standardised actions of an episode with these stored gripper commands, in the dataset's sign."""
    records = len(gripper)
    zeros, column = np.zeros((records, 3), np.float32), np.float32(gripper)[:, None]
    steps = {
        "is_first": np.zeros(records, bool),
        "is_last": np.zeros(records, bool),
        "reward": np.ones(records),
    }
    if name == "bridge_v2":
        state = observation.get("state", np.zeros((records, 7), np.float32))
        steps |= {"action": np.concatenate([zeros, zeros, column], axis=1), "language_instruction": [b"x"],
                  "language_embedding": np.zeros((1, 512)),
                  "observation": {"state": state, "image_0": [b""] * records}}  # fmt: skip
    else:
        embedding = np.zeros((1, 512))
        language = {"natural_language_instruction": [b"x"], "natural_language_embedding": embedding}
        steps["observation"] = {"image": [b""] * records, **language}
        steps["action"] = {"terminate_episode": np.float32([[0, 1, 0]] * records),
                           "world_vector": zeros, "rotation_delta": zeros,
                           "gripper_closedness_action": column, "base_displacement_vector": zeros[:, :2],
                           "base_displacement_vertical_rotation": zeros[:, :1]}  # fmt: skip
    return SPECS[name].standardise({"steps": steps, "episode_metadata": {"file_path": b"p"}}).action


CLOSE_AND_OPEN = {"fractal_arm": (1, -1), "fractal_arm_base": (1, -1), "bridge_v2": (0, 1)}
"""{shipped dataset with a gripper: its commands to close and to open}."""


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if "gripper" in spec.action.names])
def test_closing_is_one_end_of_the_grippers_dim_whatever_the_robot(name):
    action, (close, opened) = SPECS[name].action, CLOSE_AND_OPEN[name]
    dim = action.names.index("gripper")
    stored = [opened, opened, close, close, opened, close]
    actions = shipped(name, stored)
    np.testing.assert_array_equal(actions[:, dim], [1, 1, 0, 0, 1, 0])
    assert tokenize(action, actions)[:, dim].tolist() == [1, 1, 0, 0, 1, 0] and action.bins[dim] == 2


@pytest.mark.parametrize("mixture", sorted(MIXTURES))
def test_dims_of_one_name_mean_the_same(mixture):
    specs = [SPECS[name].action for name in MIXTURES[mixture]]
    assert network_action(specs).names == ("terminate", "x", "y", "z", "rx", "ry", "rz", "gripper")
    with_gripper = [(spec, spec.names.index("gripper")) for spec in specs if "gripper" in spec.names]
    assert {(spec.low[i], spec.high[i], spec.bins[i]) for spec, i in with_gripper} == {(0.0, 1.0, 2)}


def test_simulated_effort_to_grip_does_not_share_the_grippers_dim():
    from qt_jax.envs import metaworld

    simulated = set(metaworld.action_spec(tiny.get_config().env).names)
    assert simulated & set(SPECS["fractal_arm"].action.names) == {"x", "y", "z"}


@pytest.mark.parametrize(
    "commands, opening",
    [
        ([0, 0, 0], [1, 1, 1]),  # no command: open
        ([0, 1, 0, 0], [1, 0, 0, 0]),  # the first command closes: it was open
        ([0, -1, 0, 1], [0, 1, 1, 0]),
        ([0.05, -0.05, 0.7, 0.05], [1, 1, 0, 0]),  # near 0 is no command
        ([1], [0]),
    ],
)
def test_relative_commands_become_the_absolute_opening(commands, opening):
    np.testing.assert_array_equal(standardisers.opening(np.float32(commands)[:, None])[:, 0], opening)
    assert by_hand(commands) == opening


def test_the_last_record_of_fractal_is_zeros_though_the_gripper_is_open(synthetic_root):
    for example, _ in read_all(synthetic_root, "fractal_arm"):
        assert not standardisers.fractal_arm(example).action[-1].any()


def test_bridge_turns_the_short_way_where_an_angle_passes_pi():
    state = np.zeros((4, 7), np.float32)
    state[:, 3] = [3.1, -3.1, 3.1, 3.0]
    moved = shipped("bridge_v2", [1, 1, 1, 1], state=state)
    np.testing.assert_allclose(moved[:3, 3], [2 * np.pi - 6.2, 6.2 - 2 * np.pi, -0.1], atol=1e-5)


def test_the_first_command_of_bridge_which_is_empty_does_not_close():
    assert shipped("bridge_v2", [0, 1, 1, 0])[:, 6].tolist() == [1, 1, 1, 0]
    assert shipped("bridge_v2", [0, 0, 1, 0])[:, 6].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "name, hz, state_dim", [("fractal_arm", 3, 0), ("bridge_v2", 5, 7), ("language_table", 10, 4)]
)
def test_rates_and_states(name, hz, state_dim):
    assert SPECS[name].dt == pytest.approx(1 / hz) and SPECS[name].observation.state_dim == state_dim


def test_the_arms_bounds_are_those_of_rt1():
    action = SPECS["fractal_arm"].action
    assert action.names == ("terminate", "x", "y", "z", "rx", "ry", "rz", "gripper")
    assert action.bins == (2, *(256,) * 6, 2) and (action.low[7], action.high[7]) == (0, 1)
    assert action.high[4] == pytest.approx(math.pi / 2) and action.low[1] == -1


def test_a_public_layout_trains_through_the_config_alone(synthetic_root, tmp_path):
    config = make_config(synthetic_root, "fractal_arm")
    config.workdir = str(tmp_path)
    state = loop.train(config, tables.resolve(config.data, {}), Peers())
    assert int(state.step) == 5


def test_three_robots_in_one_batch(synthetic_root):
    config = make_config(synthetic_root, "oxe")
    _, recipe, assets = setup.prepare(config, tables.resolve(config.data, {}))
    batch = next(iterator := TrainingIterator(recipe, batch_size=10, threads=1))
    iterator.close()
    counts = [np.isclose(batch.dt[:, 0], dt).sum() for dt in (1 / 3, 1 / 5, 1 / 10)]
    assert sum(counts) == 10 and np.abs(np.asarray(counts) - [5, 3, 2]).max() <= 1
    assert assets.interface.action.dims == 8 and batch.images["front"].shape == (10, 6, 32, 32, 3)
    bins = {(2, *(256,) * 6, 2), (0, *(256,) * 6, 2), (0, 256, 256, *(0,) * 5)}
    assert {tuple(row) for row in batch.bins} == bins


def test_a_robot_dataset_beside_a_simulated_one(synthetic_root, dataset_path, tmp_path):
    """Different dims, bins, frequency and image size in one batch."""
    from qt_jax.training import datasets

    (tmp_path / "lab.py").write_text("MIXTURES = {'lab': {'fractal_arm': 1, 'collected': 1}}")
    config = make_config(synthetic_root, "lab")
    config.data.tables, config.data.path = str(tmp_path / "lab.py"), dataset_path
    config.workdir = str(tmp_path / "run")
    entries = datasets.entries(config)
    _, recipe, assets = setup.prepare(config, entries)
    segment = next(iterator := TrainingIterator(recipe, batch_size=8, threads=1))
    iterator.close()
    simulated = segment.bins[:, 0] == 0
    assert simulated.sum() == 4 and assets.interface.action.names[0] == "terminate"
    np.testing.assert_allclose(segment.dt[simulated], 0.0625)
    np.testing.assert_allclose(segment.dt[~simulated], 1 / 3, rtol=1e-6)
    np.testing.assert_array_equal(segment.bins[simulated][0], [0, 16, 16, 16, 0, 0, 0, 0, 16])
    assert segment.state.shape[-1] == 4 and not segment.state[~simulated].any()
    assert int(loop.train(config, entries, Peers()).step) == 5


def test_stored_embeddings_are_used_where_their_encoder_is_asked_for(synthetic_root):
    config = make_config(synthetic_root, "fractal_arm")

    def make_index():
        return setup.prepare(config, tables.resolve(config.data, {}))[1].mixture.sources[0].index

    index = make_index()
    assert np.linalg.norm(index.embeddings, axis=1) == pytest.approx(1.0, abs=0.2), "our encoder's"
    config.data.text_encoder = SPECS["fractal_arm"].text_encoder
    index = make_index()
    number = index.instructions.index(FRACTAL_INSTRUCTIONS[2])
    np.testing.assert_array_equal(index.embeddings[number], np.full(512, 2.0))
