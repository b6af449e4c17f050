"""What becomes of each key, episode and instruction of an input: named, chosen, held out, merged."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qt_jax.curation import convert
from qt_jax.curation.convert import keys
from qt_jax.curation.convert.keys import Key
from qt_jax.data import directories, lerobot_spec
from qt_jax.errors import UserError
from tests.curation import recordings
from tests.curation.opened import all_of, run, source, unused
from tests.curation.test_action_space import aloha

HUMAN = "complementary_info.is_intervention"


def becomes(opened):
    return {key.name: key.becomes for key in opened.keys}


def add_column(root, name, values, feature):
    """Adds a column of `values(episode, step)` to a LeRobot dataset."""
    for file in root.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        rows = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist())
        pq.write_table(table.append_column(name, pa.array([values(*row) for row in rows])), file)
    text = (root / "meta/info.json").read_text()
    (root / "meta/info.json").write_text(
        text.replace('"features": {', f'"features": {{"{name}": {feature}, ')
    )


def test_a_table_in_columns_with_what_is_not_used_last():
    rows = [Key("a.long", "bool 1", "not used: text"), Key("b", "float32 14", "the action")]
    assert keys.table(rows) == [
        "  key     holds       becomes",
        "  b       float32 14  the action",
        "  a.long  bool 1      not used: text",
    ]


def test_every_feature_of_a_lerobot_folder_is_in_the_table(lerobot_folder):
    root = lerobot_folder("v2.1")
    depth = '{"dtype": "image", "shape": [48, 64, 1], "names": null}'
    add_column(root, "observation.images.depth", lambda *_: b"", depth)
    add_column(root, "note", lambda *_: "x", '{"dtype": "string", "shape": [1], "names": null}')
    opened = source(root, "lerobot", cameras=("front",), reward="next.reward")
    assert becomes(opened) == {
        "observation.images.front": "camera front",
        "observation.images.wrist": "not used: --cameras leaves it out",
        "observation.images.depth": "not used: depth",
        "note": "not used: text",
        "observation.state": "state 0 to 2",
        "action": "the action",
        "next.success": "success",
        "next.reward": "the reward",
        "timestamp": "the time of each step",
        "episode_index": "the episode",
        "task_index": "the instruction",
        "frame_index": "not used: the rows stand in their order",
        "index": "not used: the rows stand in their order",
        "split train": "training (3)",
    }
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["note"]
    recordings.edit_info(root, features=info["features"])
    told = becomes(source(root, "lerobot", cameras=(), instruction="go", success="all"))
    assert told["note"] == "not used: meta/info.json does not declare it"
    assert told["task_index"] == "not used: --instruction is given"
    assert told["next.success"] == "not used: --reward or --success may name it"


def test_every_key_of_a_robomimic_file_is_in_the_table(tmp_path):
    path = recordings.robomimic(tmp_path) / "part_1.hdf5"
    with h5py.File(path, "a") as file:
        demo = file["data/demo_2"]
        demo["states"], demo["action_dict/abs_pos"] = np.ones((4, 9)), np.ones((4, 3))
        demo["obs/side_depth"] = np.ones((4, 48, 64, 1), np.float32)
        file["mask/train"] = [b"demo_2"]
    assert becomes(source(path, "hdf5", cameras=("front_image",), state=("gripper",))) == {
        "front_image": "camera front_image",
        "gripper": "state 0",
        "eef_pos": "not used: --state leaves it out",
        "side_depth": "not used: depth, float32 [48, 64, 1] a step",
        "actions": "the action",
        "rewards": "success",
        "dones": "not used: an episode ends with its rows, or at its success",
        "states": "not used: it is no observation; --action may name it",
        "action_dict/abs_pos": "not used: it is no observation; --action may name it",
        "next_obs": "the observation after the last action",
        "attribute language_instruction": "the instruction",
        "attribute control_freq": "the time of each step",
        "mask/train": "training (1)",
    }


def test_a_key_of_a_few_episodes_is_in_the_table(tmp_path):
    root = recordings.one_episode_a_file(tmp_path)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        file["observations/images/side"], file["base_action"] = np.ones((4, 48, 64, 3), np.uint8), np.ones(4)
    opened = source(root, "hdf5", success="all", instruction="go", cameras=("front",))
    rare = [
        (key.name, key.holds) for key in opened.keys if key.becomes == "not used: most episodes have none"
    ]
    assert rare == [(name, "in 1 of 3 episodes") for name in ("images/side", "base_action")]


def test_cameras_get_names(lerobot_folder):
    root = lerobot_folder("v2.1")
    opened = source(root, "lerobot", camera=(("top", "observation.images.front"), ("hand", "wrist")))
    assert opened.observation.cameras == ("hand", "top") and set(all_of(opened)[0].images) == {"hand", "top"}
    assert source(root, "lerobot", camera=(("top", "front"),), cameras=("top",)).observation.cameras == (
        "top",
    )
    for given, message in [
        ((("wrist", "front"),), "front and .*wrist would both be the camera 'wrist'; give each a name"),
        ((("a", "front"), ("a", "wrist")), "would both be the camera 'a'"),
        (
            (("a", "side"),),
            r"--camera=a=side: .* no such image, .*expected one of \['observation.images.front'",
        ),
        ((("a", "front"), ("b", "front")), "--camera=a=front: .* or another --camera names it"),
    ]:
        with pytest.raises(UserError, match=message):
            source(root, "lerobot", camera=given)


def test_a_refusal_says_what_each_key_may_become(lerobot_folder, tmp_path):
    root = lerobot_folder("v2.1")
    depth = '{"dtype": "image", "shape": [48, 64, 1], "names": null}'
    add_column(root, "observation.images.depth", lambda *_: b"", depth)
    with pytest.raises(keys.Refused, match="images that cannot be used") as refused:
        source(root, "lerobot")
    assert {key.name: key.becomes for key in refused.value.keys} == {
        "observation.images.front": "may be a camera (--camera=NAME=KEY)",
        "observation.images.wrist": "may be a camera (--camera=NAME=KEY)",
        "observation.images.depth": "not used: depth",
        "observation.state": "may be the action (--action), state (--state)",
        "action": "may be the action (--action), state (--state)",
        "next.success": "may be success (--success), the reward (--reward)",
        "next.reward": "may be success (--success), the reward (--reward)",
        "timestamp": "the time of each step",
        "episode_index": "the episode",
        "task_index": "the instruction",
        "frame_index": "not used: the rows stand in their order",
        "index": "not used: the rows stand in their order",
    }

    path = recordings.robomimic(tmp_path) / "part_1.hdf5"
    with pytest.raises(keys.Refused, match="--state=nothing: .* has no 'nothing'") as refused:
        source(path, "hdf5", state=("nothing",))
    told = {key.name: key.becomes for key in refused.value.keys}
    assert told["front_image"] == "may be a camera (--camera=NAME=KEY)"
    assert told["gripper"] == "may be state (--state)"
    assert told["actions"] == "may be the action (--action)"
    assert told["rewards"] == "may be success (--success), the reward (--reward)"
    assert told["dones"].startswith("not used: an episode ends")


def test_a_refusal_of_episodes_or_of_two_inputs_says_what_becomes_of_each_key(lerobot_folder, tmp_path):
    root = lerobot_folder("v2.1")
    for file in root.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        late = pa.array(np.float32([0.1] * 2 + [0.9] * (len(table) - 2)).cumsum())
        pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", late), file)
    with pytest.raises(keys.Refused, match="--cut=gap makes two episodes") as refused:
        source(root, "lerobot", success="next.success")
    assert {key.name: key.becomes for key in refused.value.keys}["action"] == "the action"

    one, other = recordings.lerobot(tmp_path / "one"), recordings.lerobot(tmp_path / "other")
    given = [convert.Settings(str(one), "lerobot"), convert.Settings(str(other), "lerobot", cameras=())]
    with pytest.raises(keys.Refused, match="one dataset holds one kind") as refused:
        convert.open_sources(given)
    assert f"{other}: observation.state" in {key.name for key in refused.value.keys}


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lists_of_episodes_filter_and_hold_out(lerobot_folder, version, tmp_path):
    root = lerobot_folder(version)

    def written(**flags):
        opened = source(root, "lerobot", **flags)
        found = [
            list(convert.episodes(opened, units, [])) for units in (opened.units, opened.validation) if units
        ]
        rows = {key.name: key.becomes for key in opened.keys if key.name.startswith("--")}
        return [[len(episode.actions) for episode in part] for part in found], rows

    assert written(split="0,2") == ([[4, 3]], {"--split=0,2": "training (2)"})
    assert written(validation="1:") == ([[4], [3, 3]], {"--validation=1:": "validation (2)"})
    (tmp_path / "held_out.txt").write_text("# looked at\n\n2\n")
    assert written(split="0:2", validation=f"@{tmp_path}/held_out.txt")[0] == [[4, 3], [3]]
    recordings.edit_info(root, splits={"train": "0:2", "val": "2:3"})
    assert written(validation="val")[0] == [[4, 3], [3]]
    for flags, message in [
        (
            {"split": "0,7"},
            r"--split is '0,7'; .* has splits train \(2\), val \(1\), and no '7'; .* such as 0:40,52",
        ),
        (
            {"split": "0:4"},
            "--split is '0:4'; .* and no '0:4'; expected one of them, all, or episodes such as",
        ),
        (
            {"split": "train", "validation": "1"},
            "--split=train and --validation=1 both hold 1 episodes, among",
        ),
        ({"validation": "@gone.txt"}, "--validation=@gone.txt cannot be read .FileNotFoundError"),
        ({"split": "all", "validation": "0:3"}, "the part that --split names holds no episode"),
    ]:
        with pytest.raises(UserError, match=message):
            source(root, "lerobot", **flags)


def test_masks_and_demos_hold_out(tmp_path):
    root = recordings.robomimic(tmp_path)

    def groups(units):
        return [f"{place.file[-11:-5]}/{place.group[5:]}" for place, _ in units]

    opened = source(root, "hdf5", validation="part_0/demo_12")
    assert groups(opened.units) == ["part_0/demo_2", "part_1/demo_2"]
    assert groups(opened.validation) == ["part_0/demo_12"] and opened.episodes == 3
    assert groups(source(root, "hdf5", split="part_1").units) == ["part_1/demo_2"]
    assert groups(source(root / "part_0.hdf5", "hdf5", split="demo_12").units) == ["part_0/demo_12"]
    with pytest.raises(UserError, match="both hold 1 episodes, among them .*part_0.hdf5: data/demo_12; an"):
        source(root, "hdf5", split="part_0", validation="part_0/demo_12")
    with pytest.raises(UserError, match="and no 'demo_2'; .*such as part_0,part_0/demo_12"):
        source(root, "hdf5", split="demo_2")
    with h5py.File(root / "part_0.hdf5", "a") as file:
        file["mask/train"], file["mask/valid"] = [b"demo_2"], [b"demo_12"]
    opened = source(root / "part_0.hdf5", "hdf5", split="train", validation="valid")
    assert (groups(opened.units), groups(opened.validation)) == (["part_0/demo_2"], ["part_0/demo_12"])
    with pytest.raises(UserError, match="part_1.hdf5 has no mask/train, which another file has"):
        source(root, "hdf5", split="train")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_who_acted(lerobot_folder, version):
    """A person acts at all steps of episode 0, at the first of episode 1, and in 2 only after its success."""
    root, feature = (
        lerobot_folder(version),
        '{"dtype": "float32", "shape": [1], "names": ["is_intervention"]}',
    )
    add_column(root, HUMAN, lambda e, step: float([True, step < 1, step > 3][e]), feature)
    opened = source(root, "lerobot")
    assert {episode.collector for episode in all_of(opened)} == {"demonstration"}
    assert becomes(opened)[HUMAN] == ("not used: --intervention tells a person's steps from a policy's")
    opened = source(root, "lerobot", intervention=HUMAN)
    episodes = all_of(opened)
    assert [one.collector for one in episodes] == ["demonstration", "intervention", "policy"]
    for number, one in enumerate(episodes):
        by_person = [True if number == 0 else number == 1 and t < 1 for t in range(len(one.actions))]
        np.testing.assert_array_equal(one.intervention, by_person)

    directory = directories.open_dataset(str(root))  # where they lie
    read = lerobot_spec.spec(str(root), intervention=HUMAN).standardise
    records = [record for shard in range(len(directory.shards)) for _, record in directory.scan(shard, "")]
    for record, one in zip(records, episodes, strict=True):
        found = read(directory.parse(record))
        assert found.collector == one.collector
        np.testing.assert_array_equal(found.intervention[:-1], one.intervention)
    assert becomes(opened)[HUMAN] == "who acted"
    with pytest.raises(UserError, match="--intervention is 'took_over', which is no column of one number"):
        source(root, "lerobot", intervention="took_over")
    with pytest.raises(UserError, match="--collector=noise says who acted at all steps"):
        source(root, "lerobot", intervention=HUMAN, collector="noise")


def test_an_hdf5_episode_of_two_instructions_is_cut(tmp_path):
    root = recordings.one_episode_a_file(tmp_path)
    state, actions = recordings.vectors(2)
    texts = ["reach", "reach", "lift", "lift", "lift"]
    for i in (0, 1):
        (root / f"episode_{i}.hdf5").unlink()
    with h5py.File(root / "episode_2.hdf5", "a") as file:
        file["language_instruction"] = texts
    with pytest.raises(
        UserError, match="step 2: its instruction changes .*--cut=instruction makes an episode"
    ):
        source(root, "hdf5", success="all")
    first, second = all_of(source(root, "hdf5", success="all", cut=("instruction",)))
    assert (first.instruction, second.instruction, first.index, second.index) == ("reach", "lift", 0, 1)
    np.testing.assert_array_equal(first.actions, actions[:2])
    np.testing.assert_array_equal(second.actions, actions[2:5])
    np.testing.assert_array_equal(first.state, state[:3])  # the next part's first observation ends it
    np.testing.assert_array_equal(second.state, state[2:])
    assert [len(one.images["front"]) for one in (first, second)] == [3, 4]
    whole = all_of(source(root, "hdf5", success="all", instruction="go"))[0]
    assert whole.images["front"][2:] == second.images["front"]
    with h5py.File(root / "episode_2.hdf5", "a") as file:
        del file["language_instruction"]
        file.attrs["language_instruction"] = ["reach", "lift"]
    with pytest.raises(UserError, match="has 2 instructions and 5 actions, expected one for each action"):
        source(root, "hdf5", success="all", cut=("instruction",))


def test_inputs_are_merged(tmp_path, lerobot_folder):
    first = lerobot_folder("v2.1")
    second = lerobot_folder("v3.0")
    recordings.rename(second, "observation.images.front", "observation.images.cam_high")

    def opened(*inputs, **flags):
        settings = [convert.Settings(str(one), "lerobot", **flags) for one in inputs]
        return convert.open_sources(settings)

    with pytest.raises(
        UserError, match=r"v3.0 has cameras \('cam_high', 'wrist'\), .*v2.1 has \('front', 'wr"
    ):
        opened(first, second)
    with pytest.raises(UserError, match="--input is given twice"):
        opened(first, first)
    named = (("front", "observation.images.front"), ("front", "observation.images.cam_high"))
    both = opened(first, second, camera=named, validation="2")
    training, held_out = (list(convert.episodes(both, units, [])) for units in (both.units, both.validation))
    assert [one.index for one in training] == [0, 1, 3, 4] and [one.index for one in held_out] == [2, 5]
    for one, other in zip(training[:2], training[2:]):
        np.testing.assert_array_equal(one.actions, other.actions)
        assert one.images.keys() == other.images.keys() == {"front", "wrist"}
    assert both.action == opened(first).action and both.episodes == 6
    assert f"{second}: observation.images.cam_high" in becomes(both)

    recordings.edit_rows(second, "action", lambda e, step, value: [value[0] - 9, np.nan if e else value[1]])
    with pytest.raises(UserError, match="It is bad episode 3, --max_skipped is 2"):
        recordings.edit_rows(
            first, "action", lambda e, step, value: [np.nan if e == 1 else value[0], value[1]]
        )
        opened(first, second, camera=named, max_skipped=2)
    wider = opened(first, second, camera=named, max_skipped=3)
    assert wider.action.low[0] < -8 < 0 < wider.action.high[0] and len(wider.skips.errors) == 3


def test_absolute_actions_and_deltas_are_not_merged(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        actions, state = aloha(tmp_path / name / "episode_0.hdf5")
    with h5py.File(tmp_path / "b/episode_0.hdf5", "a") as file:
        file["action"][...] = np.column_stack([actions[:, :2] - state[:, 1:], actions[:, 2]])
    flags = {"success": "all", "instruction": "fold", "fps": 50.0}

    def opened(**more):
        return convert.open_sources(
            [convert.Settings(str(tmp_path / name), "hdf5", **flags, **more) for name in "ab"]
        )

    with pytest.raises(UserError, match="b has action 'a0' delta of 0.8, .*a has absolute, .*--action_space"):
        opened()
    first, second = all_of(opened(action_space="delta"))
    np.testing.assert_array_equal(first.actions, second.actions)


def test_a_dry_run_writes_nothing(tmp_path, lerobot_folder):
    root = lerobot_folder("v2.1")
    recordings.edit_info(root, splits={"train": "0:2", "val": "2:3"})
    flags = ("--format=lerobot", "--dry-run", "--filter_key=train", "--validation=val", "--camera=top=front")
    result = run(f"--input={root}", *flags, f"--output={tmp_path}/converted")
    assert result.returncode == 0, result.stderr
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    assert ["", "observation.images.front", "image 48 x 64 x 3", "camera top"] in lines
    assert "Nothing is written (--dry_run): 3 episodes" in result.stdout
    assert "actions, fewer than 50 steps to tell by: shoulder, gripper" in result.stdout
    assert not (tmp_path / "converted").exists()
    result = run(f"--input={root}", "--format=lerobot", "--dry_run", "--camera=state=front")
    assert result.returncode == 2 and "--camera is 'state=front'; expected NAME=KEY" in result.stderr


def test_what_is_not_used_of_openpis_droid_layout(lerobot_folder):
    """Its conversion by openpi keeps the state in two columns, which --state joins."""
    root = lerobot_folder("v2.1")
    for old, new in {
        "observation.images.front": "exterior_image_1_left",
        "observation.images.wrist": "wrist_image_left",
        "observation.state": "joint_position",
        "action": "actions",
    }.items():
        recordings.rename(root, old, new)
    feature = '{"dtype": "float32", "shape": [1], "names": ["gripper_position"]}'
    add_column(root, "gripper_position", lambda e, step: float(step), feature)
    with pytest.raises(UserError, match=r"give --state=KEY, of \['gripper_position', 'joint_position'\]"):
        source(root, "lerobot")
    opened = source(root, "lerobot", state=("joint_position", "gripper_position"))
    assert becomes(opened)["gripper_position"] == "state 3" and opened.observation.state_dim == 4
    assert unused(opened) == ["next.reward", "frame_index", "index"]
