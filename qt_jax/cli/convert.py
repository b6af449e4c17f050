"""`convert`: a folder of recorded episodes (LeRobot, HDF5) as an RLDS dataset that `train` reads."""

from __future__ import annotations

import re

from absl import flags

from qt_jax.curation import convert, rlds_writer
from qt_jax.curation.convert import action_space, keys, skips
from qt_jax.curation.convert.recording import Source
from qt_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what to read, which of it to keep, and where it goes."""
    folder = "The folder to read, or an HDF5 file; several, to merge them. On all machines the same path."
    flags.DEFINE_multi_string("input", [], folder)
    flags.DEFINE_enum("format", None, sorted(convert.FORMATS), "What is in it.")
    flags.DEFINE_string("output", "", "Where the dataset goes: config.data.path of the training to come.")
    success = "all, none, or a key that is positive where the task is solved. [next.success, rewards]"
    flags.DEFINE_string("success", "", success)
    reward = "A key to take rewards from. [1 at the transition that succeeds, else 0]"
    flags.DEFINE_string("reward", "", reward)
    instruction = "The instruction of all episodes. [what each episode says]"
    flags.DEFINE_string("instruction", "", instruction)
    fallback = "The instruction of the episodes that have none. [these are refused]"
    flags.DEFINE_string("fallback_instruction", "", fallback)
    collector = "Who acted: demonstration, or the kind of autonomous episode."
    flags.DEFINE_string("collector", "demonstration", collector)
    flags.DEFINE_float("fps", 0.0, "Decisions a second, where the files do not say it.", lower_bound=0.0)
    flags.DEFINE_list("cameras", None, "Cameras to keep. [all]")
    named = "NAME=KEY: the name of a camera; give it once a camera. [the last part of its key]"
    flags.DEFINE_multi_string("camera", [], named)
    flags.DEFINE_list("bgr", [], "Cameras whose red and blue are swapped in the files. [none]")
    flags.DEFINE_list("action", [], "Keys joined to the action. [action or actions]")
    called = "Names of the action's dims; robots in one mixture share those of one name. [its own, or a0, a1]"
    flags.DEFINE_list("action_names", [], called)
    joined = "Keys to join to the state vector. [observation.state or state; all vectors of HDF5]"
    flags.DEFINE_list("state", None, joined)
    space = "The actions of the dataset: absolute, or delta, which is less the state. [as they are]"
    flags.DEFINE_enum("action_space", "", ["", *action_space.SPACES], space)
    paired = "For each action the number of its entry in the state, or -, such as 0,1,2,-. [found]"
    flags.DEFINE_list("action_state", None, paired)
    unit = "How far a delta of 1 is meant to move the state. [as far as it says]"
    flags.DEFINE_float("delta_unit", 0.0, unit, lower_bound=0.0)
    flags.DEFINE_list("image_size", None, "HEIGHT,WIDTH to resize all images to. [as they are]")
    acted = "A key, positive at a person's steps: tells demonstration, intervention and policy apart."
    flags.DEFINE_string("intervention", "", acted)
    part = "Episodes to write: LeRobot's split or robomimic's mask, a list, @FILE, or all. [all, or refused]"
    flags.DEFINE_string("split", "", part)
    flags.DEFINE_alias("filter_key", "split")
    flags.DEFINE_string("validation", "", "As --split: the split `validation` of the dataset. [none]")
    cut = "gap, instruction: two episodes where LeRobot's times jump, or the instruction changes. [refused]"
    flags.DEFINE_list("cut", [], cut)
    off = "LeRobot: how far timestamps and frames may be off. [a tenth of a step]"
    flags.DEFINE_float("tolerance_s", 0.0, off, lower_bound=0.0)
    skipped = "So many bad episodes are left out, named and counted; one more ends it."
    flags.DEFINE_integer("max_skipped", 0, skipped, lower_bound=0)
    flags.DEFINE_boolean("dry_run", False, "Says what becomes of each key, and ends.")
    flags.DEFINE_alias("dry-run", "dry_run")
    flags.DEFINE_enum("file_format", "array_record", rlds_writer.FILE_FORMATS, "Of the dataset.")
    flags.DEFINE_enum("runner", "local", rlds_writer.RUNNERS, "Here, or as an Apache Beam pipeline.")
    options = "Beam's own, such as --beam_options=--runner=DirectRunner; give it once an option."
    flags.DEFINE_multi_string("beam_options", [], options)


def main() -> None:
    """Says what becomes of each key of the input, converts it, and prints what is in the dataset."""
    for flag in ("input", "format", "output"):
        if not FLAGS[flag].value and not (flag == "output" and FLAGS.dry_run):
            formats = "|".join(convert.FORMATS)
            raise UserError(
                f"--{flag} is missing; give --input=FOLDER --format={formats} --output=data/NAME."
            )
    rlds_writer.check_runner(FLAGS.runner)
    if not FLAGS.dry_run:
        rlds_writer.check_free(FLAGS.output)

    try:
        source = convert.open_sources([settings(path) for path in FLAGS.input])
    except keys.Refused as refused:
        print("\n".join(keys.table(refused.keys)), flush=True)
        raise
    for line in (*keys.table(source.keys), *skips.grouped(source.notes)):
        print(line, flush=True)
    if FLAGS.dry_run:
        print(f"Nothing is written (--dry_run): {source.episodes} episodes; their images were not read")
        for line in (*_described(source), *source.skips.lines()):
            print(line)
        return

    path, count, notes = convert.write(
        source,
        FLAGS.output,
        reward="stored" if FLAGS.reward else "success",
        file_format=FLAGS.file_format,
        runner=FLAGS.runner,
        beam_options=FLAGS.beam_options,
    )
    print(f"{path}: {count} episodes")
    for line in (*_described(source), *skips.grouped(notes), *source.skips.lines()):
        print(line)


def _described(source: Source) -> list[str]:
    observation, action = source.observation, source.action
    cameras = ", ".join(observation.cameras) or "none"
    bounds = zip(action.names, action.low, action.high)
    return [
        f"  cameras {cameras} at {observation.image_size}, state of {observation.state_dim}",
        "  actions " + ", ".join(f"{name} [{low:.3g}, {high:.3g}]" for name, low, high in bounds),
        *(f"  {line}" for line in action_space.lines(source.spaces)),
    ]


def settings(path: str) -> convert.Settings:
    """Returns the flags as the settings of the input at `path`.

    Raises:
        UserError: for a size, a cut or a camera that does not parse.
    """
    size = FLAGS.image_size
    if size is not None and not (len(size) == 2 and all(part.isdigit() and int(part) for part in size)):
        raise UserError(f"--image_size is {','.join(size)!r}; expected HEIGHT,WIDTH such as 96,128.")
    if unknown := set(FLAGS.cut) - set(convert.CUTS):
        raise UserError(
            f"--cut is {','.join(FLAGS.cut)!r}; expected some of {','.join(convert.CUTS)}, not "
            f"{sorted(unknown)[0]!r}."
        )

    pairs = [tuple(one.split("=", 1)) for one in FLAGS.camera]
    if wrong := [
        pair for pair in pairs if len(pair) < 2 or not re.fullmatch(r"(?!state$)\w[\w.-]*", pair[0])
    ]:
        raise UserError(
            f"--camera is {'='.join(wrong[0])!r}; expected NAME=KEY such as front=observation.images.cam_0, "
            "with a NAME of letters and digits other than state."
        )

    def optional(value):
        return None if value is None else tuple(value)

    return convert.Settings(
        input=path,
        format=FLAGS.format,
        success=FLAGS.success,
        reward=FLAGS.reward,
        instruction=FLAGS.instruction,
        fallback_instruction=FLAGS.fallback_instruction,
        collector=FLAGS.collector,
        fps=FLAGS.fps,
        cameras=optional(FLAGS.cameras),
        camera=tuple(pairs),
        bgr=tuple(FLAGS.bgr),
        intervention=FLAGS.intervention,
        action=tuple(FLAGS.action),
        action_names=tuple(FLAGS.action_names),
        state=optional(FLAGS.state),
        action_space=FLAGS.action_space,
        action_state=optional(FLAGS.action_state),
        delta_unit=FLAGS.delta_unit,
        image_size=size and (int(size[0]), int(size[1])),
        split=FLAGS.split,
        validation=FLAGS.validation,
        cut=tuple(FLAGS.cut),
        tolerance_s=FLAGS.tolerance_s,
        max_skipped=FLAGS.max_skipped,
    )
