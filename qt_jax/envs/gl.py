"""Finds an OpenGL backend that really renders on this machine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from qt_jax.errors import UserError

BACKENDS = ("egl", "osmesa", "glfw")

_PROBE = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current()"


def _works(backend: str) -> bool:
    environment = {**os.environ, "MUJOCO_GL": backend}
    probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=120)
    return probe.returncode == 0


@functools.cache
def select_backend() -> str:
    """Sets MUJOCO_GL to the first backend that works (the user's own choice is tried alone) and returns its name.

    Must run before mujoco is imported. Child processes inherit the choice and do not probe again.

    Raises:
        UserError: if none works; names the package to install.
    """
    if os.environ.get("QT_JAX_GL_PROBED") == os.environ.get("MUJOCO_GL", ""):
        return os.environ["MUJOCO_GL"]
    chosen = os.environ.get("MUJOCO_GL")
    tried = (chosen,) if chosen else BACKENDS
    for backend in tried:
        if _works(backend):
            os.environ["MUJOCO_GL"] = os.environ["QT_JAX_GL_PROBED"] = backend
            return backend
    raise UserError(
        f"No OpenGL backend renders here (tried MUJOCO_GL={', '.join(tried)}); images need one. Install a software one with "
        "`apt-get install libosmesa6` or `apt-get install libegl1 libegl-mesa0`, or use a state-only config (config.env.cameras=())."
    )
