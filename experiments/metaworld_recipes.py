"""Recipes: what a run sees of its pool. Methods: an algorithm and the settings that the diagnosis chose for it (diagnosis.md)."""

import ml_collections

RECIPES = {
    "a": (("demonstration=10", "noise=200"), "all"),
    "b": (
        ("demonstration=20", "noise=200", "perception_bias=67", "wrong_task=67", "stuck_gripper=66"),
        "demonstrations_and_failures",
    ),
    "c": (("demonstration=100", "noise=200"), "all"),
    "d": (("demonstration=10", "perception_bias=67", "wrong_task=67", "stuck_gripper=66"), "all"),
}
"""{name: (config.data.limits, config.data.episodes)}, episodes a task:
a: few demonstrations and noisy autonomous episodes. b: few demonstrations and failures alone, about 8% positives (the paper's simulation).
c: plentiful demonstrations and noisy episodes. d: as a, but with systematic errors."""


def select(config: ml_collections.ConfigDict, recipe: str, episodes: str = "all") -> None:
    """What a run sees: the recipe's, of which `episodes` may keep less."""
    config.data.limits, of_recipe = RECIPES[recipe]
    successes_are_demonstrations = of_recipe == "demonstrations_and_failures"
    narrower = {"all": of_recipe, "successes": "demonstrations" if successes_are_demonstrations else "successes"}
    config.data.episodes = narrower.get(episodes, episodes)
