"""Copies among episodes are counted and named, and so are those that leak into validation."""

from qt_jax.curation.duplicates import Duplicates


def lines(*episodes):
    found = Duplicates()
    for place, (content, instruction, held_out) in enumerate(episodes):
        found.add(content.encode(), f"file, episode {place}", instruction, held_out)
    return found.lines()


def test_without_a_copy_nothing_is_said():
    assert lines(("a", "push", False), ("b", "push", True)) == []


def test_copies_are_counted_and_the_first_are_named():
    (line,) = lines(*[("a", "push", False)] * 5, *[("b", "push", False)] * 2, ("c", "push", False))
    assert line == (
        "5 episodes are duplicates of 2 others (same actions, states and images): "
        "file, episode 1 is file, episode 0, file, episode 2 is file, episode 0, "
        "file, episode 3 is file, episode 0, ..."
    )


def test_a_copy_under_another_instruction_and_one_across_the_split():
    episodes = ("a", "push", False), ("a", "shove", False), ("a", "push", True), ("b", "push", True)
    counted, renamed, across = lines(*episodes)
    assert counted.startswith("2 episodes are duplicates of 1 others")
    assert counted.endswith("file, episode 2 is file, episode 0")
    assert renamed == "1 of the duplicates have another instruction than the first"
    assert across.startswith("1 of the duplicates are on the other side of the split")
