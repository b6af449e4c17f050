import pytest

from benchmarks import ogbench


def line(run, tasks, **own):
    facts = {"steps": 50000, "parameters": 690824, "data_episodes": 1000, "core_hours": 1.5, "commit": "abc"}
    return {"run": run, "success": tasks, "episodes": 50, "machine": "it"} | facts | own


def test_rows_by_their_beginning():
    assert ogbench.wanted(["scene-play,iql,task2"]) == [f"scene-play,iql,task2,{seed}" for seed in range(3)]
    first = ogbench.wanted([])
    assert len(first) == 2 * len(ogbench.ogbench.METHODS) * 3 and all(",all," in row for row in first)
    with pytest.raises(
        SystemExit, match="'scene,iql' is no row; expected SET,METHOD,TASK,SEED of cube-single"
    ):
        ogbench.wanted(["scene,iql"])


def test_the_table_by_hand():
    """Means over seeds of each task, then over tasks; five tasks of one network, two of networks a task."""
    five = {f"scene-task{n}": 0.1 * n for n in range(1, 6)}
    rows = [
        line("scene-play,iql,all,0", five),
        line("scene-play,iql,all,1", {task: 0.0 for task in five}, core_hours=0.25),
        line("scene-play,awac,task1,0", {"scene-task1": 0.5}),
        line("scene-play,awac,task1,1", {"scene-task1": 0.7}, steps=100),
        line("scene-play,awac,task2,0", {"scene-task2": 0.0}),
        line("cube-single-play,iql,all,0", {f"cube-single-task{n}": 0.5 for n in range(1, 6)}),
    ]
    overall, scene, cube = ogbench.table(rows).split("\n\n")[:3]
    found = overall.splitlines()
    ours = ["iql | one for five tasks | 50 |  | 15 |  | 2 | 50,000 | 690,824 | 1,000,000 | 3.2 |"]
    ours += ["awac | one a task |  |  | 30 (of 2 tasks) |  | 2 | 100 to 50,000 | 690,824 | 1,000,000 | 4.5 |"]
    assert found[2:4] == [f"| **ours** | {row}" for row in ours]
    assert "| published | IQL | one a task | 83 | 6 | 28 | 9 |  | 1,000,000 |  | 1,000,000 |  |" in found
    for table in (overall, scene, cube):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    # 60 of 100 episodes and none of 50; Wilson's intervals at 1.96.
    assert "| **ours** | awac | one a task | 60 [50, 69] | 0 [0, 7] |  |  |  | 2 |" in scene.splitlines()
    assert "| published | IQL | one a task | 94 | 12 | 32 | 0 | 0 | 8 |" in scene.splitlines()
    assert cube.startswith("| cube-single-play |") and "awac | one a task |" not in cube
