"""Exchanges in HLO texts: their bytes, groups and number."""

import pytest

from qt_jax.planning.hlo import Collective, collectives


def entry(*lines):
    return (
        "HloModule m, num_partitions=8\n\nENTRY %main (x: f32[4]) -> f32[4] {\n"
        + "".join(f"  {line}\n" for line in lines)
        + "}\n"
    )


def test_bytes_are_those_of_the_whole_array():
    pairs = ((0, 1), (2, 3))
    text = entry(
        "%a = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add",
        "%b = bf16[2]{0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add",
        "%c = (f32[2]{0}, f32[4]{0}) all-gather-start(%x), replica_groups={{0,1},{2,3}}, dimensions={0}",
        "%d = f32[4]{0} all-gather-done(%c)",
        "ROOT %e = (f32[3]{0}, f32[1]{0}) all-to-all(%x, %y), replica_groups={{0,1},{2,3}}",
        "%f = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%x), "
        "source_target_pairs={{0,1},{2,3}}",
    )
    sizes = {
        "all-reduce": 32,
        "reduce-scatter": 8,
        "all-gather": 16,
        "all-to-all": 16,
        "collective-permute": 20,
    }
    assert collectives(text) == {Collective(kind, size, pairs): 1 for kind, size in sizes.items()}


@pytest.mark.parametrize("written, groups", [
    ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
    ("{}", (tuple(range(8)),)),
    ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
    ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
    ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
    ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
    ("mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", ((3, 1), (2, 0))),
])  # fmt: skip
def test_groups_in_every_form(written, groups):
    assert collectives(entry(f"%a = f32[] all-reduce(%x), replica_groups={written}, to_apply=%add")) == {
        Collective("all-reduce", 4, groups): 1
    }


def test_groups_in_an_unknown_form_are_not_passed_over():
    for written in ("whatever", "mesh['a'=8] {'a':(1)2}"):
        with pytest.raises(ValueError, match="groups"):
            collectives(entry(f"%a = f32[] all-reduce(%x), replica_groups={written}, to_apply=%add"))


def computation(name, line):
    return f"%{name} (p: f32[4]) -> f32[4] {{\n  {line}\n}}\n\n"


def summed(size):
    return f"%a = f32[{size}]{{0}} all-reduce(%p), replica_groups={{{{0,1}}}}, to_apply=%add"


BODY = computation("body", summed(4))


def test_loops_count_as_often_as_they_run():
    line = '%w = f32[4] while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    assert list(collectives(BODY + entry(line, line)).values()) == [6]


def test_a_loop_without_a_note_is_as_long_as_its_bound():
    """As the TPU's compiler writes it."""
    condition = """
%cond (p: (s32[], f32[4])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(6)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %constant.7), direction=LT, metadata={op_name="while/cond/lt"}
}
"""
    text = condition + BODY + entry("%while.1 = (s32[], f32[4]) while(%t), condition=%cond, body=%body")
    assert list(collectives(text).values()) == [6]
    with pytest.raises(ValueError, match="a loop whose length"):
        collectives(text.replace("direction=LT", "direction=NE"))


@pytest.mark.parametrize("called", [
    "branch_computations={%few, %many}, metadata={}",
    "true_computation=%many, false_computation=%few, metadata={}",
])  # fmt: skip
def test_of_alternatives_one_runs(called):
    branches = computation("few", summed(1)) + computation("many", summed(9))
    (found,) = collectives(branches + entry(f"%c = f32[4] conditional(%p, %x, %x), {called}"))
    assert found.size == 36


def test_what_several_fusions_of_a_tpu_share_counts_once_and_a_scattered_sum_once():
    """An all-gather that one fusion starts, one has under way and one ends.

    An all-reduce of which each device keeps a part.
    """
    flags = {"start": "-1", "step": "2", "done": "2"}
    gather = "%g = f32[4]{0} all-gather(%p), replica_groups={{0,1}}, backend_config="
    fusions = [computation(name, f'{gather}{{"flag_start":"{flag}"}}') for name, flag in flags.items()]
    fusions.append(computation("all-reduce-scatter.1", summed(4)))
    lines = [f"%f = f32[4] fusion(%x), calls=%{name}" for name in (*flags, "all-reduce-scatter.1")]
    expected = {Collective(kind, 16, ((0, 1),)): 1 for kind in ("all-gather", "reduce-scatter")}
    assert collectives("".join(fusions) + entry(*lines)) == expected


@pytest.mark.parametrize("target, slices", [("{1,2}x{0:3}", 2), ("{1,2,3,4}x{0:3}", 4), ("{1:8}x{0:3}", 8)])
def test_what_the_runtime_sends_between_slices(target, slices):
    def send(kind):
        attributes = f'{{_xla_megascale_target="{target}",_xla_megascale_transfer_type="{kind}"}}'
        return f"%s = (f32[2,8]{{1,0}}, u32[], token[]) send(%x, %t), frontend_attributes={attributes}"

    expected = {"all-reduce": 64, "all-gather": 64 * slices, "collective-permute": 64}
    text = entry(
        *map(send, ("ALL_REDUCE", "ALL_GATHER", "ONE_TO_ONE")),
        "%r = (f32[2,8]{1,0}, u32[], token[]) recv(%t)",
    )
    assert collectives(text) == {Collective(kind, size, (), slices): 1 for kind, size in expected.items()}
