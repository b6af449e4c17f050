"""`convert`: a folder of recorded episodes (LeRobot, HDF5) as an RLDS dataset that `train` reads."""

from __future__ import annotations

from absl import flags

from qt_jax.curation import convert, rlds_writer
from qt_jax.curation.convert import skips
from qt_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what to read, which of it to keep, and where it goes."""
    folder = "The folder to read; for HDF5 one file will do. On several machines: the same path on each."
    flags.DEFINE_string("input", "", folder)
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
    flags.DEFINE_string("action", "", "The key of the action. [action or actions]")
    joined = "Keys to join to the state vector. [observation.state or state; all vectors of HDF5]"
    flags.DEFINE_list("state", None, joined)
    flags.DEFINE_list("image_size", None, "HEIGHT,WIDTH to resize all images to. [as they are]")
    part = "LeRobot's split or robomimic's filter key to write, or all. [all, if none is held out]"
    flags.DEFINE_string("split", "", part)
    cut = "LeRobot: gap, instruction: two episodes where timestamps jump, or the task changes. [refused]"
    flags.DEFINE_list("cut", [], cut)
    off = "LeRobot: how far timestamps and frames may be off. [a tenth of a step]"
    flags.DEFINE_float("tolerance_s", 0.0, off, lower_bound=0.0)
    skipped = "So many bad episodes are left out, named and counted; one more ends it."
    flags.DEFINE_integer("max_skipped", 0, skipped, lower_bound=0)
    flags.DEFINE_enum("file_format", "array_record", rlds_writer.FILE_FORMATS, "Of the dataset.")
    flags.DEFINE_enum("runner", "local", rlds_writer.RUNNERS, "Here, or as an Apache Beam pipeline.")
    options = "Beam's own, such as --beam_options=--runner=DirectRunner; give it once an option."
    flags.DEFINE_multi_string("beam_options", [], options)


def main() -> None:
    """Converts the folder, and prints what is in the dataset and what is not."""
    for flag in ("input", "format", "output"):
        if not FLAGS[flag].value:
            formats = "|".join(convert.FORMATS)
            raise UserError(
                f"--{flag} is missing; give --input=FOLDER --format={formats} --output=data/NAME."
            )
    rlds_writer.check_runner(FLAGS.runner)
    rlds_writer.check_free(FLAGS.output)

    source = convert.open_source(settings())
    for note in skips.grouped(source.notes):
        print(note, flush=True)
    path, count, notes = convert.write(
        source,
        FLAGS.output,
        reward="stored" if FLAGS.reward else "success",
        file_format=FLAGS.file_format,
        runner=FLAGS.runner,
        beam_options=FLAGS.beam_options,
    )

    observation, action = source.observation, source.action
    cameras = ", ".join(observation.cameras) or "none"
    bounds = zip(action.names, action.low, action.high)
    print(f"{path}: {count} episodes")
    print(f"  cameras {cameras} at {observation.image_size}, state of {observation.state_dim}")
    print("  actions " + ", ".join(f"{name} [{low:.3g}, {high:.3g}]" for name, low, high in bounds))
    for line in (*skips.grouped(notes), *source.skips.lines()):
        print(line)


def settings() -> convert.Settings:
    """Returns the flags as settings.

    Raises:
        UserError: for a size or a cut that does not parse.
    """
    size = FLAGS.image_size
    if size is not None and not (len(size) == 2 and all(part.isdigit() and int(part) for part in size)):
        raise UserError(f"--image_size is {','.join(size)!r}; expected HEIGHT,WIDTH such as 96,128.")
    if unknown := set(FLAGS.cut) - set(convert.CUTS):
        raise UserError(
            f"--cut is {','.join(FLAGS.cut)!r}; expected some of {','.join(convert.CUTS)}, not "
            f"{sorted(unknown)[0]!r}."
        )

    def optional(value):
        return None if value is None else tuple(value)

    return convert.Settings(
        input=FLAGS.input,
        format=FLAGS.format,
        success=FLAGS.success,
        reward=FLAGS.reward,
        instruction=FLAGS.instruction,
        fallback_instruction=FLAGS.fallback_instruction,
        collector=FLAGS.collector,
        fps=FLAGS.fps,
        cameras=optional(FLAGS.cameras),
        action=FLAGS.action,
        state=optional(FLAGS.state),
        image_size=size and (int(size[0]), int(size[1])),
        split=FLAGS.split,
        cut=tuple(FLAGS.cut),
        tolerance_s=FLAGS.tolerance_s,
        max_skipped=FLAGS.max_skipped,
    )
