"""The rlds library, importable.

`rlds` imports `reverb` for one module that we do not use, and dm-reverb's binary does not load beside today's
TensorFlow. This is the one place that puts a stand-in for it into `sys.modules`, and only where the real one
does not import.
"""

from __future__ import annotations

import importlib
import sys
import types


def import_rlds() -> types.ModuleType:
    """The `rlds` module; imports TensorFlow, so call it late."""
    try:
        importlib.import_module("reverb")
    except ImportError:
        stand_in = types.ModuleType("reverb")
        stand_in.structured_writer = types.ModuleType("reverb.structured_writer")
        for module in (stand_in, stand_in.structured_writer):
            module.__getattr__ = lambda name: object  # every name that rlds' type annotations look up
        sys.modules["reverb"] = stand_in
    return importlib.import_module("rlds")
