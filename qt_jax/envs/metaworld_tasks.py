"""What Meta-World lacks: instructions, action repeats, and which goals only a marker can show.

The first instruction of a task is the one used in evaluation; collection draws from all of them. Sentences
are this project's.
"""

from __future__ import annotations

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "assembly": (
        "put the ring onto the peg",
        "assemble the ring and the peg",
        "place the round nut over the pole",
    ),
    "basketball": (
        "dunk the basketball into the hoop",
        "drop the ball through the basket",
        "put the ball in the hoop",
    ),
    "bin-picking": (
        "move the cube from one bin to the other",
        "pick the block out of its bin and drop it in the other bin",
    ),
    "box-close": ("close the box with its lid", "put the lid on the box", "cover the box"),
    "button-press": (
        "press the button on the wall",
        "push the button in from the front",
        "push the red button forward",
    ),
    "button-press-topdown": (
        "press the button from above",
        "push the button down",
        "press down on the red button",
    ),
    "button-press-topdown-wall": (
        "reach over the wall and press the button from above",
        "press down the button behind the wall",
    ),
    "button-press-wall": (
        "go around the wall and press the button",
        "press the button that is behind the wall",
    ),
    "coffee-button": ("press the button of the coffee machine", "start the coffee machine"),
    "coffee-pull": ("pull the mug away from the coffee machine", "take the mug out of the coffee machine"),
    "coffee-push": ("push the mug under the coffee machine", "slide the mug to the coffee machine"),
    "dial-turn": ("turn the dial", "rotate the dial by half a turn", "twist the knob"),
    "disassemble": (
        "take the ring off the peg",
        "lift the nut off the pole",
        "disassemble the ring and the peg",
    ),
    "door-close": ("close the door", "shut the door", "swing the door closed"),
    "door-lock": ("lock the door", "turn the lock to lock the door"),
    "door-open": ("open the door", "pull the door open", "swing the door open by its handle"),
    "door-unlock": ("unlock the door", "turn the lock to unlock the door"),
    "drawer-close": ("close the drawer", "push the drawer shut", "shut the drawer"),
    "drawer-open": ("open the drawer", "pull the drawer open", "slide the drawer out"),
    "faucet-close": ("turn the faucet handle to the left", "close the faucet by moving its handle left"),
    "faucet-open": ("push the tap lever right", "open the tap by moving its lever to the right"),
    "hammer": ("hammer the nail into the wall", "hit the nail with the hammer", "drive the nail in"),
    "hand-insert": ("put the hand into the hole", "insert the gripper into the hole"),
    "handle-press": ("press the handle down", "push down the handle"),
    "handle-press-side": ("press the handle down from the side", "push the side handle down"),
    "handle-pull": ("pull the handle up", "lift the handle"),
    "handle-pull-side": ("pull the handle up from the side", "lift the side handle"),
    "lever-pull": ("pull the lever up", "raise the lever", "move the lever upwards"),
    "peg-insert-side": ("insert the peg into the side of the box", "put the peg in the hole from the side"),
    "peg-unplug-side": ("unplug the peg sideways", "pull the peg out of the hole"),
    "pick-out-of-hole": ("pick the puck out of the hole", "lift the object out of the hole"),
    "pick-place": ("pick up the puck and place it at the goal", "lift the puck and carry it to the marker"),
    "pick-place-wall": (
        "pick up the puck and carry it over the wall to the goal",
        "lift the puck across the wall",
    ),
    "plate-slide": ("slide the plate into the cabinet", "push the plate forward into the cabinet"),
    "plate-slide-back": ("slide the plate back out of the cabinet", "pull the plate backwards"),
    "plate-slide-back-side": (
        "slide the plate out of the cabinet sideways",
        "pull the plate out to the side",
    ),
    "plate-slide-side": (
        "slide the plate sideways into the cabinet",
        "push the plate into the cabinet from the side",
    ),
    "push": (
        "push the puck to the goal",
        "slide the puck to the marker",
        "move the puck across the table to the goal",
    ),
    "push-back": ("pull the puck back to the goal", "slide the puck backwards to the marker"),
    "push-wall": ("push the puck around the wall to the goal", "slide the puck past the wall to the marker"),
    "reach": (
        "move the hand to the goal",
        "reach the goal with the gripper",
        "bring the gripper to the marker",
    ),
    "reach-wall": ("reach the goal behind the wall", "move the hand past the wall to the marker"),
    "shelf-place": ("put the puck on the shelf", "place the object onto the shelf"),
    "soccer": ("kick the ball into the goal", "push the football into the net"),
    "stick-pull": ("pull the box with the stick", "use the stick to drag the container"),
    "stick-push": ("push the box with the stick", "use the stick to push the container"),
    "sweep": ("sweep the puck off the table", "wipe the object off the table"),
    "sweep-into": ("sweep the puck into the hole", "push the object into the hole in the table"),
    "window-close": ("close the window", "slide the window shut", "push the window to close it"),
    "window-open": ("open the window", "slide the window open", "push the window to open it"),
}

MT10 = (
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close",
    "button-press-topdown", "peg-insert-side", "window-open", "window-close",
)  # fmt: skip
"""Meta-World's own MT10 selection."""

MT50 = tuple(INSTRUCTIONS)

ACTION_REPEAT = {"pick-place": 3, "peg-insert-side": 3}
"""Per-task overrides of `config.action_repeat`: grasps need finer control (default of this project)."""

GOAL_NEEDS_MARKER = {
    "reach", "reach-wall", "push", "push-wall", "push-back", "pick-place", "pick-place-wall",
    "pick-out-of-hole", "coffee-pull", "coffee-push", "stick-push", "stick-pull", "sweep", "peg-unplug-side",
    "bin-picking",
}  # fmt: skip
"""Tasks whose goal is a point in space that nothing in the scene shows. The markers of all others are made
invisible: where two tasks share a scene, the place of a marker would give the task away.
"""

SHARED_SCENES = (("faucet-open", "faucet-close"),)
"""Pairs with the same scene, the same start and no visible marker: only the instruction tells them apart."""

OBJECT_RANGE = {"faucet-close": ((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0))}
"""Overrides of the range of initial object positions, so that a shared scene starts alike for both tasks."""

STYLES: dict[str, tuple[str, ...]] = {
    "reach": ("pick-place",),
    "push": ("pick-place",),
    "pick-place": ("sweep",),
    "door-open": ("coffee-pull",),
    "drawer-open": ("button-press-topdown",),
    "drawer-close": ("plate-slide",),
    "button-press-topdown": ("handle-press",),
    "window-open": ("button-press-topdown",),
    "window-close": ("handle-pull",),
    "sweep-into": ("push-back",),
    "hammer": ("sweep-into",),
    "peg-unplug-side": ("sweep",),
    "push-wall": ("pick-place-wall",),
    "coffee-pull": ("coffee-push",),
}
"""{task: another whose expert did it in six tries of six, in at most 1.5 times the own expert's time}."""
