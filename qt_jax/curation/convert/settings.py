"""The settings of a conversion, and which of an input's cameras, keys and episodes they choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from qt_jax.curation.convert.action_space import Turn
from qt_jax.data.names import short_names
from qt_jax.errors import UserError

CUTS = ("gap", "instruction")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of `convert`, about the input."""

    input: str
    format: str
    success: str = ""
    """A key, positive where the task is solved; or "all" or "none". Empty: the format's own key."""
    reward: str = ""
    """A key; empty: 1 at the transition that succeeds."""
    instruction: str = ""
    """The one of all episodes; empty: what each says."""
    fallback_instruction: str = ""
    """The one of episodes that say none; empty: they are refused."""
    collector: str = "demonstration"
    fps: float = 0.0
    cameras: tuple[str, ...] | None = None
    """Names; None: all."""
    camera: tuple[tuple[str, str], ...] = ()
    """(name, key) of cameras that do not get the last part of their key as a name."""
    bgr: tuple[str, ...] = ()
    """Names of cameras whose red and blue are swapped in the input."""
    action: tuple[str, ...] = ()
    """Keys that are joined to the action; empty: action or actions."""
    action_names: tuple[str, ...] = ()
    """Names of the action's dims in the dataset; empty: the input's own."""
    state: tuple[str, ...] | None = None
    """Keys that are joined to the state vector; None: the format's own."""
    action_space: str = ""
    """One of `action_space.SPACES`, which the dataset is to have; empty: as the actions are."""
    action_state: tuple[str, ...] | None = None
    """For each dim of the action the number of its entry in the state, or "-"; None: found."""
    delta_unit: float = 0.0
    """How far a delta of 1 is meant to move the state; 0: as far as it says."""
    turn: Turn | None = None
    """How actions are turned, which `action_space` asks for; found when the input was read once."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are resized to; None: as they are."""
    intervention: str = ""
    """A key, positive at the steps at which a person acted; empty: `collector` acted at all."""
    split: str = ""
    """One of the input's own parts, "all", or a list; empty: all but those of `validation`."""
    validation: str = ""
    """One of the input's own parts or a list, which becomes the split `validation`; empty: none."""
    cut: tuple[str, ...] = ()
    """Some of `CUTS`: where an episode becomes two."""
    tolerance_s: float = 0.0
    """How far a time may be off; 0: a tenth of a step."""
    max_skipped: int = 0
    """So many bad episodes may be left out."""


def camera_names(settings: Settings, keys: Iterable[str], separator: str, name: str) -> dict[str, str]:
    """Returns {camera: key} of all images: the names that --camera gives, the others as `short_names` does.

    Args:
        settings: of the conversion.
        keys: of the images.
        separator: between the parts of a key.
        name: of the input, for messages.

    Raises:
        UserError: for a key that is not there, or where two would have one name.
    """
    short = short_names(keys, separator, reserved="state")
    keys = set(short.values())
    given = {key if key in keys else short.get(key, key): camera for camera, key in settings.camera}
    there = {key: camera for key, camera in given.items() if key in keys}
    for camera, key in settings.camera:
        if camera not in there.values():
            raise UserError(
                f"--camera={camera}={key}: {name} has no such image, or another --camera names it; expected "
                f"one of {sorted(short.values())}."
            )
    named: dict[str, str] = {}
    for key, camera in ({key: camera for camera, key in short.items()} | there).items():
        if camera in named:
            raise UserError(
                f"{name}: {named[camera]} and {key} would both be the camera {camera!r}; give each a name of "
                f"its own, --camera=NAME={key}."
            )
        named[camera] = key
    return named


def choose(
    flag: str, wanted: tuple[str, ...] | None, available: Collection[str], default: Iterable[str], name: str
) -> list[str]:
    """Returns the keys that a flag names, or the default.

    Raises:
        UserError: for a key that is not there.
    """
    for key in wanted or ():
        if key not in available:
            raise UserError(
                f"{flag}={','.join(wanted or ())}: {name} has no {key!r}; expected some of "
                f"{sorted(available)}."
            )
    return list(default) if wanted is None else list(wanted)


def cameras(
    settings: Settings, usable: Mapping[str, Any], refused: Mapping[str, str], name: str
) -> list[str]:
    """Returns the names of the cameras to keep: those of --cameras, or all.

    Args:
        settings: of the conversion.
        usable: {name: anything} of the cameras.
        refused: {name: why} of images that cannot be used.
        name: of the input, for messages.

    Raises:
        UserError: for a camera that is not there or cannot be used.
    """
    for key in settings.cameras or ():
        if key in refused:
            raise UserError(
                f"--cameras={','.join(settings.cameras or ())}: {name} has {key!r}, {refused[key]}; leave it "
                "out."
            )
    if settings.cameras is None and refused:
        each = ", ".join(f"{key!r} ({why})" for key, why in sorted(refused.items()))
        raise UserError(
            f"{name} has images that cannot be used: {each}; leave them out with "
            f"--cameras={','.join(sorted(usable)) or ' (none)'}."
        )
    chosen = choose("--cameras", settings.cameras, usable, sorted(usable), name)
    choose("--bgr", settings.bgr, chosen, (), name)
    return chosen


def check_observed(cameras: Iterable[str], state: Iterable[str], there: Iterable[str], name: str) -> None:
    """Raises UserError if neither a camera nor a part of the state is used of what is `there`."""
    if not (*cameras, *state):
        raise UserError(
            f"{name} has no observation that is used, of {sorted(there) or 'none'}; expected images or "
            "vectors, which --cameras and --state may choose from."
        )


def action_keys(settings: Settings, keys: Iterable[str], name: str) -> tuple[str, ...]:
    """Returns the keys that are joined to the action.

    Raises:
        UserError: if one is not there, or if both usual keys are there and no flag chooses.
    """
    keys = sorted(keys)
    usual = [key for key in ("action", "actions") if key in keys]
    if len(usual) > 1 and not settings.action:
        raise UserError(f"{name} has both 'action' and 'actions'; give --action=action or --action=actions.")
    found = settings.action or tuple(usual) or ("action",)
    if len(set(found)) < len(found):
        raise UserError(f"--action={','.join(found)} names a key twice; give each once.")
    if lacking := [key for key in found if key not in keys]:
        raise UserError(f"{name} has features {keys}, expected {lacking[0]!r} among them; give --action=KEY.")
    return found


def action_names(settings: Settings, own: Sequence[str]) -> list[str]:
    """Returns the names of the action's dims: those of --action_names, or the input's `own`.

    Raises:
        UserError: for another number of names than dims, or one that is there twice.
    """
    given = settings.action_names or own
    if len(given) != len(own) or len(set(given)) < len(given):
        raise UserError(
            f"--action_names is {','.join(given)!r}; expected {len(own)} names, each once, for "
            f"{', '.join(own)}."
        )
    return list(given)


def image_size(settings: Settings, sizes: dict[str, tuple[int, int]], name: str) -> tuple[int, int]:
    """Returns (height, width) of all images in the dataset: --image_size, or the one size of all cameras.

    Raises:
        UserError: for cameras of different sizes without --image_size.
    """
    if settings.image_size:
        return settings.image_size
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"{name} has cameras of different sizes {sizes}; give --image_size=HEIGHT,WIDTH to resize them, "
            "or --cameras."
        )
    return next(iter(sizes.values()), (0, 0))


def success_key(settings: Settings, keys: Iterable[str], own: str, name: str) -> str:
    """Returns "all", "none", or the key of success.

    Args:
        settings: of the conversion.
        keys: of columns with one number a step.
        own: the format's own key of success.
        name: of the input, for messages.

    Raises:
        UserError: if a flag names a key that is not there, or nothing says which it is.
    """
    keys = list(keys)
    if not settings.success and own not in keys:
        raise UserError(
            f"{name} has no {own!r} to tell success by; give --success=all, --success=none"
            + (f" or --success=KEY, of {keys}." if keys else ".")
        )
    for flag, words in (("success", ["all", "none"]), ("reward", []), ("intervention", [])):
        value, expected = getattr(settings, flag), [*words, *keys]
        if value and value not in expected:
            raise UserError(
                f"--{flag} is {value!r}, which is no column of one number a step in {name}; expected one of "
                f"{expected}."
            )
    return settings.success or own


def instruction(settings: Settings, said: str, why: str) -> str:
    """Returns an episode's instruction: of all episodes, of this one, or the fallback.

    Args:
        settings: of the conversion.
        said: the episode's own; may be blank.
        why: what is missing, as an error begins.

    Raises:
        UserError: if there is none.
    """
    text = settings.instruction or said.strip() or settings.fallback_instruction
    if not text:
        raise UserError(
            f"{why}; give --instruction='open the drawer' for all episodes, or --fallback_instruction for "
            "those without one alone."
        )
    return text
