"""Finds an OpenGL backend that really renders on this machine, before mujoco fixes its choice at import."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from types import ModuleType

from qt_jax.errors import UserError

BACKENDS = ("egl", "osmesa", "glfw")

_PROBE = """
import mujoco
scene = '<mujoco><worldbody><light pos="0 0 2"/><geom size="1"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(scene)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
assert renderer.render().any()
"""
_PROBED = "QT_JAX_GL_PROBED"
"""Environment variable that tells child processes that MUJOCO_GL was tried already."""


def _works(backend: str) -> bool:
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


@functools.cache
def find_backend() -> str | None:
    """Sets MUJOCO_GL to the first backend that works, and returns its name; None if none works.

    A user's own MUJOCO_GL is the only one that is tried.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen and os.environ.get(_PROBED) == chosen:
        return chosen
    for backend in (chosen,) if chosen else BACKENDS:
        if _works(backend):
            os.environ["MUJOCO_GL"] = os.environ[_PROBED] = backend
            return backend
    return None


def require_backend() -> str:
    """Returns the name of the backend.

    Raises:
        UserError: if none works; it names the package to install.
    """
    backend = find_backend()
    if backend is None:
        tried = os.environ.get("MUJOCO_GL") or ", ".join(BACKENDS)
        raise UserError(
            f"No OpenGL backend renders here (tried MUJOCO_GL={tried}); images need one. Install a software "
            "one with `apt-get install libosmesa6` or `apt-get install libegl1 libegl-mesa0`, or use a "
            "state-only config (config.env.cameras=())."
        )
    return backend


def import_simulator(name: str) -> ModuleType:
    """Chooses a backend, then imports a module that imports mujoco.

    Raises:
        UserError: if the module does not import; it names the extra to install.
    """
    find_backend()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"The simulator does not import ({error}); pip install 'qt_jax[sim]'.", topic="missing-package"
        ) from error
