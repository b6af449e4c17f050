"""A server of its own process that records into a folder, of a policy without a network."""

import asyncio
import sys
from pathlib import Path

import numpy as np

from qt_jax.policy.sessions import Sessions
from qt_jax.serving import process
from qt_jax.serving.policies import Policies, Served
from qt_jax.serving.recording import Recorder
from qt_jax.serving.server import Server
from qt_jax.serving.spool import Spool
from tests.serving import fake


def main(folder: str) -> None:
    """Serves until a signal comes; prints then how many episodes had no label."""
    with Spool(Path(folder)) as spool:
        process.say(f"before: {spool.before}")
        recorder = Recorder(spool)
        sessions = Sessions(fake.Policy(), lambda sentence: np.ones(4, np.float32), reserved=1)
        server = Server(Policies([Served(sessions, {"artefact": "fake"})]), recorder=recorder)
        asyncio.run(process.listen(server, process.Address("127.0.0.1", 0)))
        process.say(f"unlabelled: {recorder.unlabelled}")


if __name__ == "__main__":
    main(*sys.argv[1:])
