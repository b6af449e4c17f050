"""A SLURM of two nodes on loopback, from Debian's packages.

It shares nothing with another SLURM of the machine, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("127.0.0.2", "127.0.0.3")
"""Names that are addresses: JAX finds its coordinator by the first node's name, here without a hosts file."""

CONF = """\
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire: also how long a requeued job waits (default: 120 s).
AuthInfo=socket={directory}/munge.socket,cred_expire=5
SchedulerParameters=sched_interval=1
MinJobAge=3600
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
NodeName={nodes[0]} NodeAddr={nodes[0]} NodeHostname=localhost Port={ports[1]} CPUs=2
NodeName={nodes[1]} NodeAddr={nodes[1]} NodeHostname=localhost Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES
"""


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """Starts the cluster; yields the value of SLURM_CONF for SLURM's commands, once both nodes are idle."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # munged wants its socket's directory open
        conf = directory / "slurm.conf"
        conf.write_text(
            CONF.format(directory=directory, nodes=NODES, ports=_free_ports(3), user=getpass.getuser())
        )
        key = directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        (directory / "state").mkdir()
        environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        started: list[subprocess.Popen] = []

        def start(*command: str) -> None:
            with open(directory / f"{len(started)}-{command[0]}.log", "w") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            started.append(process)

        def sinfo() -> str:
            return _output("sinfo", "-h", "-N", "-o", "%T", env=environment)

        options = ("socket", "log-file", "pid-file", "seed-file")
        munge = {option: directory / f"munge.{option}" for option in options}
        paths = [f"--{option}={path}" for option, path in munge.items()]
        try:
            start("munged", "--foreground", f"--key-file={key}", *paths)
            wait_for(munge["socket"].exists, 30, lambda: _logs(directory))
            start("slurmctld", "-D")
            for node in NODES:
                start("slurmd", "-D", "-N", node)
            wait_for(lambda: sinfo().split() == ["idle"] * len(NODES), 60, lambda: sinfo() + _logs(directory))
            yield str(conf)
        finally:
            _take_down(environment, started)


def processes(*variables: str) -> list[int]:
    """Returns the processes of this machine that have all of these variables ("NAME=value")."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if {variable.encode() for variable in variables} <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float, report: Callable[[], str]) -> None:
    """Waits until the condition holds; else fails with what `report` returns."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {report()}"
        time.sleep(0.05)


def _take_down(environment: dict[str, str], started: list[subprocess.Popen]) -> None:
    """Ends the jobs by SLURM, as they would outlive its daemons; then the daemons; then all that is left."""
    conf = f"SLURM_CONF={environment['SLURM_CONF']}"
    if len(started) > 1 and started[1].poll() is None:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment, timeout=60)

        def queue() -> str:
            return _output("squeue", "-h", env=environment).strip()

        with contextlib.suppress(AssertionError):
            wait_for(lambda: not queue(), 60, queue)
    for daemon in reversed(started):
        daemon.terminate()
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not processes(conf), 30, str)
    for process in processes(conf):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for daemon in started:
        daemon.wait()
    wait_for(lambda: not processes(conf), 30, lambda: f"processes {processes(conf)} are left")


def _output(*command: str, env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("", 0))).getsockname()[1] for _ in range(number)]


def _logs(directory: Path) -> str:
    return "".join(f"\n{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(directory.glob("*log*")))
