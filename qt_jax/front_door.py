"""The functions of `import qt_jax`.

Each imports what it needs when it is called, because a robot has none of what training needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qt_jax.data.opened import Dataset
    from qt_jax.policy.loaded import LoadedPolicy
    from qt_jax.training.state import TrainState


def load_policy(
    path: str | Path,
    *,
    step: int = 0,
    dataset: str = "",
    decode: str = "",
    candidates: int = 0,
    limits: str | Path = "",
    robots: int = 1,
    keys: str | Path = "",
    threads: int | None = None,
) -> LoadedPolicy:
    """Loads a policy to act with: see `LoadedPolicy` for what it takes and returns.

    Compiles everything, so that no later call waits for it.

    Args:
        path: the directory of a run (needs the extra `train`); an artefact that `export` wrote; or the folder
            `onnx` of an artefact, or a file in it (needs onnxruntime and no jax).
        step: which kept checkpoint of a run (0: the latest).
        dataset: the dataset whose robot acts; of a run that was trained on several.
        decode: how a run's policy decides an action: "greedy" (the default), "beam:4", "sample:0.7" or
            "rank:16:0.7" (docs/robot.md). An artefact has the one it was exported with.
        candidates: most actions of somebody else that a run's policy ranks at once (`LoadedPolicy.rank`);
            0: none. An artefact has the number it was exported with.
        limits: a JSON file of a run's safety limits (docs/robot.md); none: all that is decided is executed.
            An artefact has those it was exported with.
        robots: how many episodes there may be at once, each under a `session_id` of its own.
        keys: a JSON file with the robot's own names of its cameras, state and instruction (docs/robot.md).
        threads: of onnxruntime (default: one a core, 4 at most).

    Raises:
        UserError: if there is no policy at `path`, it cannot be read, it lacks what `decode` or
            `candidates` needs, or the limits are not of its robot.

    """
    from qt_jax.export import any_policy

    return any_policy.load(path, step, dataset, decode, candidates, limits, robots, keys, threads)


def open_dataset(source: Any) -> Dataset:
    """Opens the datasets that a config trains on, or one dataset that describes itself: see `Dataset`.

    Args:
        source: a config, such as an experiment file's get_config() returns; or the path of a dataset that
            `convert`, `collect` or `serve --record` wrote, or of a LeRobot folder.

    Raises:
        UserError: if data is missing or damaged.

    """
    import ml_collections

    from qt_jax.data.opened import Dataset
    from qt_jax.training import datasets, setup

    path = str(source) if isinstance(source, (str, Path)) else ""
    config = datasets.select(None if path else source, path)
    frozen = ml_collections.FrozenConfigDict(config)
    _, recipe, _ = setup.prepare(frozen, datasets.entries(config), any_returns=True)
    return Dataset(recipe)


def train(config: Any) -> TrainState:
    """Trains as the config says, from the latest checkpoint in `config.workdir` on if there is one.

    Returns:
        The state after the last step.

    Raises:
        UserError: for a bad config, bad data, or a loss that is not finite.
        Preempted: if SIGTERM or Ctrl-C came; the run is saved.

    """
    import ml_collections

    from qt_jax.training import datasets, distributed, loop

    with distributed.start(config.distributed) as peers:
        return loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), peers)


def evaluate(
    config: Any,
    *,
    server: str = "",
    api_key: str | None = None,
    ca: str | None = None,
    keys: str | Path = "",
    execute: int = 0,
) -> dict[str, Any]:
    """Rolls a policy out in the config's simulator; videos and report.html go into `config.workdir`.

    Args:
        config: of the run in `config.workdir`, whose checkpoint is evaluated.
        server: ws://, wss:// or unix:// URL of a served policy, to be evaluated instead: of `serve`, or of
            any other server of openpi's protocol, such as openpi's own.
        api_key: of the server, if it wants one.
        ca: PEM file of the certificates to trust, where the server signed its own.
        keys: a JSON file with the server's names of cameras, state and instruction (docs/robot.md).
        execute: how many actions of a reply are executed before the next, of another server than `serve`
            (0: all).

    Returns:
        Success with intervals by task and overall, and what the instruction is worth, as in evaluation.json.

    Raises:
        UserError: if there is no such run or server, or its policy was trained with other settings.

    """
    from qt_jax.evaluation import evaluate as evaluation
    from qt_jax.evaluation import runs

    runs.check(config)
    if not server:
        return evaluation.evaluate(config, evaluation.of_run(config))
    from qt_jax.envs import suites
    from qt_jax.errors import UserError
    from qt_jax.evaluation import served
    from qt_jax.policy.observations import Keys
    from qt_jax.serving.any_server import AnyServer
    from qt_jax.serving.client import Client, Remote

    suite = suites.of(config)
    observation = suite.observation_spec(config.env)
    names = Keys.read(str(keys), observation) if keys else Keys.default(observation)

    def connect() -> Client:
        return Client(server, api_key, ca=ca)

    with connect() as client:
        if served.is_ours(client.metadata):
            if execute:
                raise UserError(f"--execute={execute} is of other servers; {server} says how many itself.")
            actor = Remote(client, names)
            found = served.of_server(config, server, actor, client.metadata, names)
            return evaluation.evaluate(config, found)
    with AnyServer(server, connect, names, suite.action_spec(config.env), execute) as other:
        return evaluation.evaluate(config, served.of_any_server(config, server, other))
